"""Kernels stay within their memory: guard pages, sanitizers, and rejection of invalid sizes."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from glmtui.engine.nn.linear import cpu_torch
from glmtui.engine.nn.native import build, library
from glmtui.engine.nn.native.kernels import NativeWeight
from glmtui.engine.nn.native.library import (
    CDecoder,
    CLayer,
    CLinear,
    CStep,
    available,
    check_status,
)
from glmtui.engine.nn.packed_weight import quantize
from support import TESTS
from support.isa_emulation import ISAS, compile_emulated
from support.native_decoder import CPU, make_decoder
from support.weights import random_weight

needs_kernels = pytest.mark.skipif(not available(), reason=build.build_kernels().problem)

GUARDED = """
import ctypes, mmap, sys, torch
from glmtui.engine.nn.linear.cpu_torch import CpuInt4Linear, CpuInt8Linear, KERNELS
from glmtui.engine.nn.packed_weight import quantize

libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

def guarded(tensor):
    "A copy that ends at a page that cannot be read."
    pages = -(-tensor.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    start = libc.mmap(None, pages + mmap.PAGESIZE, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    assert libc.mprotect(start + pages, mmap.PAGESIZE, 0) == 0
    memory = (ctypes.c_char * tensor.nbytes).from_address(start + pages - tensor.nbytes)
    copy = torch.frombuffer(memory, dtype=tensor.dtype).view(tensor.shape)
    return copy.copy_(tensor)

layers = {CpuInt8Linear: ("q", "scale"), CpuInt4Linear: ("packed", "scales_and_zeros")}
int4, int8 = KERNELS
checked = 0
for kernel, bits, group in ((int8, 8, None), (int4, 4, 32), (int4, 4, 64)):
    for columns in (8, 16, 24, 32, 40, 48, 64, 96, 128):
        for rows in (1, 3, 16, 17, 64, 65):
            if columns % (group or 1) or bits == 4 and columns % 2:
                continue
            weight = quantize(torch.randn(rows, columns), bits, group)
            if not kernel.supports(weight, torch.bfloat16):
                continue
            layer = kernel.make(weight, None, torch.bfloat16)
            for name in layers[type(layer)]:
                setattr(layer, name, guarded(getattr(layer, name)))
            for tokens in (1, 3, 4):
                x = guarded(torch.randn(tokens, columns).bfloat16())
                assert torch.isfinite(layer(x)).all()
                checked += 1
print(checked)
"""


def test_torchs_kernels_do_not_read_beyond_the_end_of_weights() -> None:
    process = subprocess.run([sys.executable, "-c", GUARDED], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) > (200 if cpu_torch.packed_block() else 60)


def sanitizer(name: str) -> str:
    """The runtime library of a sanitizer; skips the test if the compiler has none."""
    cc = build._compiler()[0]
    process = subprocess.run([cc, f"-print-file-name={name}.so"], capture_output=True, text=True)
    path = process.stdout.strip()
    if not Path(path).is_absolute():
        pytest.skip(f"{cc} has no {name}")
    return path


SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")


@needs_kernels
def test_the_kernels_pass_the_address_and_undefined_behaviour_sanitizers() -> None:
    preload = f"{sanitizer('libasan')}:{sanitizer('libubsan')}"
    path = compile_emulated(SANITIZE)
    code = (
        "import ctypes, pytest, sys, support.isa_emulation as emulation;"
        "import glmtui.engine.nn.native.build as build;"
        f"library = ctypes.CDLL({str(path)!r});"
        # replaces the machine's own library
        "build.build_kernels = lambda: build.BuildResult(library, 'amx');"
        "emulation.emulated_library = lambda: library;"
        "sys.exit(pytest.main(sys.argv[1:]))"
    )
    chosen = "10-2 or 4-32-llama or (300-9 or 50-3) and (g32 or g192) or quantization_keeps"
    argv = [
        sys.executable,
        "-c",
        code,
        "-q",
        "-n0",
        "-p",
        "no:cacheprovider",
        str(TESTS / "engine/nn/test_native.py"),
    ]
    process = subprocess.run(
        [*argv, "-k", chosen],
        capture_output=True,
        text=True,
        cwd=TESTS,
        env={
            **os.environ,
            "LD_PRELOAD": preload,
            "ASAN_OPTIONS": "detect_leaks=0",
            "PYTHONPATH": str(TESTS),
            "OMP_NUM_THREADS": "2",
        },
    )
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    assert " passed" in process.stdout


# ---- invalid sizes are rejected before anything is read


@needs_kernels
@pytest.mark.parametrize(
    "change",
    [
        {"columns": 8},
        {"columns": 72},
        {"columns": 0},
        {"columns": -64},
        {"rows": 0},
        {"rows": -1},
        {"rows": 2**40},
        {"group": 0},
        {"group": -32},
        {"group": 24},
        {"group": 256},
        {"bits": 5},
        {"bits": 0},
    ],
)
def test_a_weight_of_invalid_sizes_is_rejected(change: dict[str, int]) -> None:
    weight = NativeWeight(quantize(random_weight(50, 128), 4, 32), None)
    for name, value in change.items():
        setattr(weight.struct, name, value)
    x, y = torch.ones(1, 128, dtype=torch.bfloat16), torch.ones(1, 50, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="do not support these sizes"):
        check_status(library.library().linear(y.data_ptr(), x.data_ptr(), weight._address, 1, 1))
    assert bool((y == 1).all())
    with pytest.raises(ValueError, match="do not support these sizes"):
        check_status(library.library().unpack(y.data_ptr(), weight._address, 0, 1, 0, 1))


@needs_kernels
@pytest.mark.parametrize(("tokens", "threads"), [(0, 1), (-1, 1), (1, 0), (1, -2), (1, 10**6)])
def test_invalid_counts_are_rejected(tokens: int, threads: int) -> None:
    weight = NativeWeight(quantize(random_weight(50, 128), 8), None)
    x, y = torch.ones(1, 128, dtype=torch.bfloat16), torch.ones(1, 50, dtype=torch.bfloat16)
    call = library.library().linear
    assert (
        call(y.data_ptr(), x.data_ptr(), weight._address, tokens, threads) == library.INVALID_SIZES
    )


@needs_kernels
@torch.inference_mode()
@pytest.mark.parametrize(
    ("target", "change"),
    [
        ("decoder", {"heads": 3}),  # not a multiple of the two key heads
        ("decoder", {"heads": 0}),
        ("decoder", {"kv_heads": 0}),
        ("decoder", {"kv_heads": -2}),
        ("decoder", {"kv_heads": 4}),  # another shape of the fused projection
        ("decoder", {"head_size": 24}),
        ("decoder", {"head_size": 512}),
        ("decoder", {"head_size": -32}),
        ("decoder", {"hidden": 32}),
        ("decoder", {"inner": 64}),
        ("step", {"offset": -1}),
        ("step", {"offset": 2**62}),
        ("step", {"tokens": 0}),
        ("step", {"allocated": 3}),
        ("step", {"threads": 0}),
        ("ids", {"first": -1}),
        ("ids", {"first": -(10**9)}),
        ("ids", {"first": 96}),
    ],
)
def test_a_step_of_invalid_sizes_is_rejected(target: str, change: dict[str, int]) -> None:
    model = make_decoder("llama", 4, 32)
    native, cache = model._native, model.new_cache(64, torch.bfloat16, CPU)
    assert native is not None
    ids = torch.tensor([change.get("first", 5), 1, 2, 3])
    numbers = torch.ones(4, 32, dtype=torch.bfloat16)
    step = CStep(numbers.data_ptr(), numbers.data_ptr(), 4, cache.allocated_tokens, 0, 1)
    changed = {"decoder": native._struct, "step": step}.get(target)
    for name, value in change.items():
        if changed is not None:
            setattr(changed, name, value)
    logits = torch.full((4, 96), 7.0)
    pointers = ctypes.c_void_p * 2
    result = library.library().decoder_step(
        logits.data_ptr(),
        ids.data_ptr(),
        ctypes.addressof(native._struct),
        ctypes.addressof(step),
        pointers(*(t.data_ptr() for t in cache.keys)),
        pointers(*(t.data_ptr() for t in cache.values)),
        0,
    )
    assert result == library.INVALID_SIZES
    assert bool((logits == 7).all())


@needs_kernels
def test_structures_are_as_large_as_the_compiler_has_them(tmp_path: Path) -> None:
    """An additional field on one side would shift all fields after it."""
    structures = {"Linear": CLinear, "Layer": CLayer, "Decoder": CDecoder, "Step": CStep}
    source = tmp_path / "sizes.c"
    source.write_text(
        f'#include "{build.SOURCE_FOLDER}/decoder_step.c"\n'
        + "".join(
            f'_Static_assert(sizeof({name}) == {ctypes.sizeof(structure)}, "{name}");\n'
            for name, structure in structures.items()
        )
    )
    argv = [*build._compiler(), *build.FLAGS, "-O0", "-c", str(source), "-o", os.devnull]
    process = subprocess.run(argv, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_every_instruction_set_is_tested() -> None:
    assert ISAS == ("avx2", "avx512", "amx")
