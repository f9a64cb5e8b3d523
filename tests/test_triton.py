"""The Triton kernels in Triton's interpreter, on a CPU: as fast as Python, as right as on a GPU.

Runs where Triton is installed, in a process of its own, since TRITON_INTERPRET is read at import.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from test_quant import int4, normal
from torch.nn import functional as F

from glmtui.engine.quant import PackedWeight, quantize

WEIGHTS = {
    "int4 g32": lambda: quantize(normal(18, 128), 4, 32),
    "int4 g32, a row of many steps and a rest": lambda: quantize(normal(5, 2144), 4, 32),
    "int4 g128": lambda: quantize(normal(9, 256), 4, 128),
    "int4, a scale per row": lambda: int4(6, 192, 192, zero=False),
    "int4 g16": lambda: int4(6, 48, 16),
    "int8": lambda: quantize(normal(7, 576), 8),
    "int8 g32": lambda: quantize(normal(6, 96), 8, 32),
}


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_in_the_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def check(weight: PackedWeight) -> None:
    from glmtui.engine.linear import triton_kernels

    assert triton_kernels.packs(weight)
    rows, columns = weight.shape
    whole = weight.dequantize(torch.float32)
    assert torch.equal(triton_kernels.unpack(weight, torch.float16), whole.half())
    for tokens in (1, 3, 4):
        x = normal(tokens, columns, seed=tokens).half()
        for bias in (None, normal(1, rows)[0].half()):
            exact = F.linear(x.float(), whole, None if bias is None else bias.float())
            y = triton_kernels.multiply(x, weight, bias)
            torch.testing.assert_close(y.float(), exact, rtol=2**-10, atol=1e-3)


if __name__ == "__main__":
    for name, weight in WEIGHTS.items():
        print(name, file=sys.stderr)
        check(weight())
