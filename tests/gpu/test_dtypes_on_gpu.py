"""The dtype that a checkpoint gets on a real GPU where none is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from glmtui.engine import LoadOptions, load_model
from support.tiny_llama import LLAMA_CONFIG, hub_name, llama_files, llama_tensors, write_folder

pytestmark = pytest.mark.gpu


def llama(folder: Path, dtype: torch.dtype) -> Path:
    """A Llama folder whose weights and config.json have this dtype."""
    tensors = {hub_name(n): torch.from_numpy(v).to(dtype) for n, v in llama_tensors().items()}
    config = LLAMA_CONFIG | {"torch_dtype": str(dtype).removeprefix("torch.")}
    files = {"config.json": json.dumps(config).encode(), "model.safetensors": save(tensors)}
    return write_folder(folder, llama_files() | files)


def test_bfloat16_stays_bfloat16_where_the_gpu_has_it(tmp_path: Path, gpu: torch.device) -> None:
    """GLM-4 and GLM-Z1 overflow in float16."""
    recent = torch.cuda.get_device_capability(gpu) >= (8, 0)
    for dtype in (torch.bfloat16, torch.float16):
        model = load_model(str(llama(tmp_path / str(dtype), dtype)), LoadOptions("cuda"))
        assert model.dtype == (dtype if recent else torch.float16)
        assert {p.dtype for p in model.model.parameters()} == {model.dtype}
        assert torch.isfinite(model.logits([3, 1, 4, 1, 5])).all()
