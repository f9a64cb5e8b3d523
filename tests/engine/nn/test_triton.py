"""The Triton kernels without a GPU: correct in the interpreter, and compiled for every GPU.

The interpreter runs in a process of its own, because TRITON_INTERPRET is read at import. The
compiler needs a target, but no GPU.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from glmtui.engine.bench.shapes import SHAPES
from glmtui.engine.loading.loader import family_module
from glmtui.engine.nn.layers import LinearPlaceholder
from glmtui.engine.nn.linear.reference import GEMV_ROWS
from glmtui.engine.nn.packed_weight import PackedWeight, quantize
from support import TESTS
from support.weights import random_int4, random_weight

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)

# ---- in the interpreter

ROWS = 5  # of a weight: one full program, and one with a single row
COLUMNS = (576, 1536, 4096, 13696, 16384)  # of the linear layers of all families
LONG = 10_000  # columns; with more, the interpreter is slow, so fewer formats are tested
FORMATS: dict[str, Callable[[int], PackedWeight]] = {
    "int4 g32": lambda columns: quantize(random_weight(ROWS, columns), 4, 32),
    "int8": lambda columns: quantize(random_weight(ROWS, columns), 8),
    "int4, a scale per row": lambda columns: random_int4(ROWS, columns, columns, zero=False),
    "int4 g64 without zero": lambda columns: random_int4(ROWS, columns, 64, zero=False),
    "int8 g32": lambda columns: quantize(random_weight(ROWS, columns), 8, 32),
}
OTHER_SHAPES: dict[str, Callable[[], PackedWeight]] = {
    "int4 g32, a row of many steps and a part of one": lambda: quantize(
        random_weight(5, 2144), 4, 32
    ),
    "int4 g128": lambda: quantize(random_weight(9, 256), 4, 128),
    "int4 g16": lambda: random_int4(6, 48, 16),
    "int8 g32, less than a step": lambda: quantize(random_weight(6, 96), 8, 32),
}
Call = tuple[int, torch.dtype, bool]
CALLS: Sequence[Call] = (  # tokens, dtype, whether there is a bias
    (1, torch.float16, False),
    (GEMV_ROWS, torch.bfloat16, True),
    (3, torch.float16, True),
    (2, torch.bfloat16, False),
)
TOLERANCE = {torch.float16: 2**-10, torch.bfloat16: 2**-7}


def test_columns_are_those_of_every_family() -> None:
    found: set[int] = set()
    for shape in SHAPES.values():
        family = family_module(shape.family)
        with torch.device("meta"):
            model = family.Model(family.load_config(shape.config))
        found |= {m.weight.shape[1] for m in model.modules() if isinstance(m, LinearPlaceholder)}
    assert found == set(COLUMNS)


@needs_triton
def test_in_the_interpreter() -> None:
    process = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == [name for name, _, _ in cases()]


def cases() -> Iterator[tuple[str, PackedWeight, Sequence[Call]]]:
    """Names, weights and the calls to test them with."""
    for columns in COLUMNS:
        long = columns > LONG
        for name, make in list(FORMATS.items())[: 2 if long else None]:
            yield f"{name}, {columns} columns", make(columns), CALLS[1:2] if long else CALLS[:3]
    for name, weight in OTHER_SHAPES.items():
        yield name, weight(), CALLS


def check(weight: PackedWeight, calls: Sequence[Call]) -> None:
    from glmtui.engine.nn.linear import triton_kernels

    assert triton_kernels.supports(weight)
    rows, columns = weight.shape
    unpacked = weight.dequantize(torch.float32)
    assert torch.equal(triton_kernels.unpack(weight, torch.float16), unpacked.half())
    for tokens, dtype, with_bias in calls:
        x = random_weight(tokens, columns, seed=tokens).to(dtype)
        bias = random_weight(1, rows)[0].to(dtype) if with_bias else None
        exact = F.linear(x.float(), unpacked, None if bias is None else bias.float())
        y = triton_kernels.multiply(x, weight, bias)
        assert y.dtype == dtype
        size = float(exact.square().mean().sqrt())
        # the interpreter truncates to bfloat16, while a GPU rounds
        torch.testing.assert_close(y.float(), exact, rtol=TOLERANCE[dtype], atol=1e-3 * size)


# ---- compiled

CAPABILITIES = (75, 80, 86, 89, 90, 120)
MULTIPROCESSOR_REGISTERS = 65_536
Signature = dict[str, Any]


@needs_triton
def test_register_limits_let_several_blocks_run_on_a_multiprocessor() -> None:
    from glmtui.engine.nn.linear.triton_kernels import REGISTERS

    # several blocks hide memory latency; one token needs the most, as it only reads memory
    blocks = {t: MULTIPROCESSOR_REGISTERS // (128 * limit) for t, limit in REGISTERS.items()}
    assert blocks == {1: 6, 2: 4, GEMV_ROWS: 3}


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's compiler with an empty cache."""
    pytest.importorskip("triton", "3.5", reason="the compiler of Triton 3.5 or later is needed")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(
    ("bits", "group", "dtype", "tokens"),
    [
        (4, 32, "fp16", 1),
        (4, 64, "fp16", 2),
        (4, 32, "bf16", GEMV_ROWS),
        (8, 4096, "fp16", GEMV_ROWS),
    ],
)
def test_products_compile_without_spills(
    tmp_path: Path, capability: int, bits: int, group: int, dtype: str, tokens: int
) -> None:
    from glmtui.engine.nn.linear import triton_kernels

    signature: Signature = {"x": f"*{dtype}", "q": "*u8" if bits == 4 else "*i8"}
    signature |= {"scale": "*fp16", "zero": "*fp16", "bias": f"*{dtype}", "y": f"*{dtype}"}
    signature |= {"rows": "i32", "columns": "i32", "tokens": "i32"}
    constants = constants_of(bits, group) | {"TOKENS": tokens, "ZERO": group == 32, "BIAS": True}
    if tokens == 1:  # Triton specializes arguments that are 1
        constants["tokens"] = 1
    limit = triton_kernels.REGISTERS[tokens]
    used = compile_kernel(
        triton_kernels._multiply, signature, constants, capability, tmp_path, limit
    )
    assert used["STACK"] == used["LOCAL"] == 0, "registers are spilled"
    assert used["REG"] <= limit


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_unpacking_compiles_without_spills(tmp_path: Path, capability: int) -> None:
    from glmtui.engine.nn.linear import triton_kernels

    signature: Signature = {"q": "*u8", "scale": "*fp16", "zero": "*fp16", "unpacked": "*fp16"}
    signature |= {"rows": "i32", "columns": "i32"}
    constants = constants_of(bits=4, group=32) | {"ZERO": True}
    used = compile_kernel(triton_kernels._unpack, signature, constants, capability, tmp_path)
    assert used["STACK"] == used["LOCAL"] == 0, "registers are spilled"
    assert used["REG"] <= 64  # so that 8 blocks fit on a multiprocessor


def constants_of(bits: int, group: int) -> dict[str, Any]:
    """The constants that `multiply` and `unpack` derive from a weight."""
    from glmtui.engine.nn.linear import triton_kernels

    q = torch.empty(1, group * bits // 8, dtype=torch.uint8 if bits == 4 else torch.int8)
    weight = PackedWeight(q, torch.empty(1, 1))
    return {
        "BITS": bits,
        "GROUP": group,
        "STRIP": triton_kernels.strip_size(weight),
        "STRIPS": triton_kernels.strips_per_step(weight),
        "ROWS": triton_kernels.ROWS,
    }


def compile_kernel(
    kernel: Any,
    signature: Signature,
    constants: dict[str, Any],
    capability: int,
    folder: Path,
    registers: int | None = None,
) -> dict[str, int]:
    """Compiles a kernel and returns the resources of a thread, as reported by cuobjdump.

    Addresses, and numbers of rows and columns, are multiples of 16, as in every released model.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from glmtui.engine.nn.linear import triton_kernels

    signature = signature | dict.fromkeys(constants, "constexpr")
    names = kernel.arg_names
    signature = {name: signature[name] for name in names}
    aligned = [["tt.divisibility", 16]]
    attributes = {
        (i,): aligned
        for i, name in enumerate(names)
        if signature[name].startswith("*") or name in ("rows", "columns")
    }
    source = ASTSource(
        kernel, signature, {(names.index(n),): value for n, value in constants.items()}, attributes
    )
    options = triton_kernels.OPTIONS | {"maxnreg": registers}
    target = GPUTarget("cuda", capability, 32)
    binary = triton.compile(source, target=target, options=options)
    file = folder / "kernel.cubin"
    file.write_bytes(binary.asm["cubin"])
    report = subprocess.run(
        [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return {name: int(number) for name, number in re.findall(r"\b([A-Z]+):(\d+)", report)}


if __name__ == "__main__":
    for name, weight, calls in cases():
        check(weight, calls)
        print(name)
