"""Rows of image tokens that load.slim leaves out are not converted, copied, moved or kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from glmtui.engine.catalog.quants import QUANTS, Quant
from glmtui.engine.loading.weight_filler import WeightFiller
from glmtui.engine.models import chatglm
from glmtui.engine.nn.linear import NativeEmbedding
from glmtui.engine.nn.packed_weight import PackedWeight, quantize
from support.allocations import AllocationLog, MappedCheckpoint
from support.goldens import GOLDEN_MODELS

FOLDER = GOLDEN_MODELS / "v1_twin_orig"
ROWS, CUT, HIDDEN = 288, 64, 32
TABLE = "transformer.word_embeddings.weight"


def unpacked(dtype: torch.dtype) -> Any:
    return lambda table: {TABLE: table.to(dtype)}


def glmtui_packed(bits: int, group: int | None) -> Any:
    """Packed as in our prepared folders."""

    def pack(table: Tensor) -> dict[str, Tensor]:
        weight = quantize(table, bits, group)
        parts = {TABLE: weight.q, f"{TABLE}.scale": weight.scale}
        return parts if weight.zero is None else parts | {f"{TABLE}.zero": weight.zero}

    return pack


def chatglm_packed(bits: int) -> Any:
    """Packed as in ChatGLM's quantised checkpoints, with random numbers."""

    def pack(table: Tensor) -> dict[str, Tensor]:
        q = torch.randint(-128, 128, (ROWS, HIDDEN * bits // 8), dtype=torch.int8)
        return {TABLE: q, f"{TABLE}_scale": torch.rand(ROWS).half()}

    return pack


STORED = {
    "float16": unpacked(torch.float16),
    "bfloat16": unpacked(torch.bfloat16),
    "float32": unpacked(torch.float32),
    "prepared int8": glmtui_packed(8, None),
    "prepared int4": glmtui_packed(4, 16),
    "released int8": chatglm_packed(8),
    "released int4": chatglm_packed(4),
}


def write_folder_with_table(path: Path, stored: str) -> Path:
    """The tiny ChatGLM-6B with its embedding stored in another way."""
    tensors = load_file(FOLDER / "model.safetensors")
    table = tensors.pop(TABLE)
    tensors.pop("lm_head.weight", None)
    raw = json.loads((FOLDER / "config.json").read_text())
    if stored.startswith("released"):
        raw["quantization_bit"] = int(stored[-1])
    (path / "config.json").write_text(json.dumps(raw))
    save_file(tensors | STORED[stored](table), path / "model.safetensors")
    return path


def tensors_of(weight: Tensor | PackedWeight) -> list[Tensor]:
    if isinstance(weight, Tensor):
        return [weight]
    return [t for t in (weight.q, weight.scale, weight.zero) if t is not None]


@pytest.mark.parametrize("device", ["cpu", "meta"])  # "meta" copies tensors as a GPU does
@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize(
    ("dtype", "quant"),
    [
        (torch.float16, None),
        (torch.bfloat16, None),
        (torch.float32, None),
        (torch.bfloat16, QUANTS["int8"]),
        (torch.bfloat16, "auto"),
    ],
    ids=["float16", "bfloat16", "float32", "int8", "auto"],
)
def test_rows_left_out_take_no_memory(
    tmp_path: Path, stored: str, dtype: torch.dtype, quant: Quant | Any, device: str
) -> None:
    folder = write_folder_with_table(tmp_path, stored)
    raw = json.loads((folder / "config.json").read_text())
    config = chatglm.load_config(raw)
    assert config.skipped_rows == CUT
    with torch.device("meta"):
        model = chatglm.Model(config)
    checkpoint = MappedCheckpoint(folder, raw)
    file = [checkpoint.read_tensor(name) for name in checkpoint.names if name.startswith(TABLE)]
    filler = WeightFiller(model, checkpoint, torch.device(device), dtype, quant)
    rows = chatglm.weight_sources(config)["embedding.weight"]
    with AllocationLog() as log:
        for path, module in [
            (n, m) for n, m in model.named_modules() if n in ("embedding", "head")
        ]:
            filler._fill_table(path, module, rows, module.weight.shape)
    embedding, head = model.embedding, model.get_submodule("head")
    tables = [*tensors_of(embedding.weight), *tensors_of(head.weight)]
    for tensor in tables:
        assert tensor.shape[0] == ROWS - CUT
        assert tensor.device.type == device
        storage = tensor.untyped_storage()
        in_file = [mapped.data_ptr() + mapped[:CUT].nbytes for mapped in file]
        own = storage.nbytes() == tensor.nbytes
        assert own or tensor.data_ptr() in in_file, "it keeps rows left out"
    largest = (ROWS - CUT) * HIDDEN * 4  # in float32, which some are unpacked in
    assert max((nbytes for nbytes, _ in log.created), default=0) <= largest, log.created
    # embedding and head are one
    assert {t.untyped_storage().data_ptr() for t in tensors_of(head.weight)} <= {
        t.untyped_storage().data_ptr() for t in tensors_of(embedding.weight)
    }
    if isinstance(embedding, NativeEmbedding):
        assert isinstance(head.weight, PackedWeight)
