"""GGUF files into prepared folders: `file` reads, `blocks` and `tokenizer` translate."""

from glmtui.engine.checkpoint.gguf.conversion import convert
from glmtui.engine.checkpoint.gguf.file import parts_of, whole_name

__all__ = ["convert", "parts_of", "whole_name"]
