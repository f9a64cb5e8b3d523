"""Writes folders of a small Llama with random weights, valid except for what a test changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from support.tiny_llama import LLAMA_CONFIG, hub_name, llama_files, llama_tensors, write_folder


def write_llama_folder(
    folder: Path,
    edit_tensors: Callable[[dict[str, Tensor]], object] = lambda tensors: None,
    **config: Any,
) -> Path:
    """A Llama with 16-bit weights.

    Args:
        edit_tensors: changes the weights before they are written.
        config: keys to add to config.json.
    """
    files = llama_files() | {"config.json": json.dumps(LLAMA_CONFIG | config).encode()}
    del files["model.safetensors"]
    write_folder(folder, files)
    weights = {hub_name(k): torch.from_numpy(v).half() for k, v in llama_tensors().items()}
    edit_tensors(weights)
    save_file(weights, folder / "model.safetensors")
    return folder
