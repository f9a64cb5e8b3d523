"""GGUF files to model folders in Hugging Face's layout, with the weights in their quantisation.

Knows the GGUF format, llama.cpp's block types and its tokenizers. Does not know torch, nor where
the folders are kept (`pull`).
"""

from glmtui.engine.checkpoint.gguf.file import model_name, split_paths
from glmtui.engine.checkpoint.gguf.prepared_folder import convert_gguf

__all__ = ["convert_gguf", "model_name", "split_paths"]
