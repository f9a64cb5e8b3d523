"""GGUF files into prepared folders: `file` reads, `blocks` and `tokenizer` translate."""

from glmtui.engine.checkpoint.gguf.conversion import convert_gguf
from glmtui.engine.checkpoint.gguf.file import model_name, split_paths

__all__ = ["convert_gguf", "model_name", "split_paths"]
