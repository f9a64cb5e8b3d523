"""Rows of the image tokens, left out by load.slim: none is converted, copied, moved or kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from glmtui.engine.catalog.registry import QUANTS, Quant
from glmtui.engine.loading.weight_filler import WeightFiller
from glmtui.engine.models import chatglm
from glmtui.engine.nn.linear import NativeEmbedding
from glmtui.engine.nn.packed_weight import PackedWeight, quantize
from support.allocations import AllocationLog, MappedCheckpoint
from support.goldens import GOLDEN

FOLDER = GOLDEN / "v1_twin_orig"
ROWS, CUT, HIDDEN = 288, 64, 32
TABLE = "transformer.word_embeddings.weight"


def whole(dtype: torch.dtype) -> Any:
    return lambda table: {TABLE: table.to(dtype)}


def prepared(bits: int, group: int | None) -> Any:
    """As our prepared folders pack."""

    def pack(table: Tensor) -> dict[str, Tensor]:
        weight = quantize(table, bits, group)
        parts = {TABLE: weight.q, f"{TABLE}.scale": weight.scale}
        return parts if weight.zero is None else parts | {f"{TABLE}.zero": weight.zero}

    return pack


def released(bits: int) -> Any:
    """As ChatGLM's own quantised checkpoints pack, whatever the numbers."""

    def pack(table: Tensor) -> dict[str, Tensor]:
        q = torch.randint(-128, 128, (ROWS, HIDDEN * bits // 8), dtype=torch.int8)
        return {TABLE: q, f"{TABLE}_scale": torch.rand(ROWS).half()}

    return pack


STORED = {
    "float16": whole(torch.float16),
    "bfloat16": whole(torch.bfloat16),
    "float32": whole(torch.float32),
    "prepared int8": prepared(8, None),
    "prepared int4": prepared(4, 16),
    "released int8": released(8),
    "released int4": released(4),
}


def folder_of(path: Path, stored: str) -> Path:
    """The tiny ChatGLM-6B with its table stored in another way."""
    tensors = load_file(FOLDER / "model.safetensors")
    table = tensors.pop(TABLE)
    tensors.pop("lm_head.weight", None)
    raw = json.loads((FOLDER / "config.json").read_text())
    if stored.startswith("released"):
        raw["quantization_bit"] = int(stored[-1])
    (path / "config.json").write_text(json.dumps(raw))
    save_file(tensors | STORED[stored](table), path / "model.safetensors")
    return path


def held(weight: Tensor | PackedWeight) -> list[Tensor]:
    if isinstance(weight, Tensor):
        return [weight]
    return [t for t in (weight.q, weight.scale, weight.zero) if t is not None]


@pytest.mark.parametrize("device", ["cpu", "meta"])  # meta copies as a GPU does
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
    folder = folder_of(tmp_path, stored)
    raw = json.loads((folder / "config.json").read_text())
    config = chatglm.load_config(raw)
    assert config.cut == CUT
    with torch.device("meta"):
        model = chatglm.Model(config)
    checkpoint = MappedCheckpoint(folder, raw)
    file = [checkpoint.read_tensor(name) for name in checkpoint.names if name.startswith(TABLE)]
    placer = WeightFiller(model, checkpoint, torch.device(device), dtype, quant)
    rows = chatglm.sources(config)["embedding.weight"]
    with AllocationLog() as log:
        for path, module in [
            (n, m) for n, m in model.named_modules() if n in ("embedding", "head")
        ]:
            placer._place_table(path, module, rows, module.weight.shape)
    embedding, head = model.embedding, model.get_submodule("head")
    tables = [*held(embedding.weight), *held(head.weight)]
    for tensor in tables:
        assert tensor.shape[0] == ROWS - CUT
        assert tensor.device.type == device
        storage = tensor.untyped_storage()
        in_file = [mapped.data_ptr() + mapped[:CUT].nbytes for mapped in file]
        own = storage.nbytes() == tensor.nbytes
        assert own or tensor.data_ptr() in in_file, "it keeps rows left out"
    wide = (ROWS - CUT) * HIDDEN * 4  # in float32, which some are unpacked in
    assert max((nbytes for nbytes, _ in log.made), default=0) <= wide, log.made
    # embedding and head are one
    assert {t.untyped_storage().data_ptr() for t in held(head.weight)} <= {
        t.untyped_storage().data_ptr() for t in held(embedding.weight)
    }
    if isinstance(embedding, NativeEmbedding):
        assert isinstance(head.weight, PackedWeight)
