"""GGUF files into prepared folders: `file` reads, `blocks` and `tokenizer` translate."""

from glmtui.engine.gguf.conversion import convert

__all__ = ["convert"]
