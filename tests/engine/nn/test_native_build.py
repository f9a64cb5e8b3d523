"""Compiling the kernels: once, where it may be written, and never a thing that stops a load."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from glmtui.engine.hardware import instruction_sets
from glmtui.engine.nn import cpu_dtype, linear
from glmtui.engine.nn.linear import NativeLinear, make_kernel_choice, make_linear
from glmtui.engine.nn.native import build
from glmtui.engine.nn.native.library import available
from glmtui.engine.nn.packed_weight import quantize
from support.isa_emulation import FLAGS, ISAS
from support.weights import normal

CPU = torch.device("cpu")
needs_kernels = pytest.mark.skipif(not available(), reason=build.build_kernels().problem)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the sources, not compiled yet, and a cache folder of its own."""
    home = tmp_path / "native"
    home.mkdir()
    sources = [name for part in build.PARTS.values() for name in part.sources]
    for name in (*build.HEADERS, *sources):
        (home / name).write_bytes((build.SOURCE_FOLDER / name).read_bytes())
    monkeypatch.setattr(build, "SOURCE_FOLDER", home)
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-O0"))  # compiles several times as fast
    monkeypatch.setenv("GLMTUI_CACHE_DIR", str(tmp_path / "cache"))
    build.build_kernels.cache_clear()
    yield home
    build.build_kernels.cache_clear()


@needs_kernels
def test_it_is_compiled_once_and_lies_beside_its_source(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build.build_kernels().library is not None
    (made,) = (elsewhere / "__pycache__").iterdir()
    assert made.suffix == ".so"
    build.build_kernels.cache_clear()
    monkeypatch.setenv("PATH", "")  # no compiler is needed any more
    assert build.build_kernels().library is not None
    # another source is another library
    source = elsewhere / build.PARTS["avx2"].sources[0]
    source.write_text(source.read_text() + "\n/* changed */\n")
    build.build_kernels.cache_clear()
    assert build.build_kernels().problem == "no C compiler found"


@needs_kernels
def test_where_nothing_may_be_written_the_cache_folder_has_it(elsewhere: Path) -> None:
    (elsewhere / "__pycache__").write_text("in the way")
    assert build.build_kernels().library is not None
    folder = elsewhere.parent / "cache" / "native"
    assert [path.suffix for path in folder.iterdir()] == [".so"]
    assert folder.stat().st_mode & 0o777 == 0o700


@needs_kernels
def test_a_folder_that_others_may_write_to_is_not_trusted(elsewhere: Path) -> None:
    (elsewhere / "__pycache__").write_text("in the way")
    folder = elsewhere.parent / "cache" / "native"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    built = build.build_kernels()
    assert built.library is None
    assert "other users may write" in built.problem


def compiler(folder: Path, script: str) -> str:
    path = folder / "cc"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    return str(path)


@needs_kernels
def test_a_folder_beside_the_source_that_others_may_write_to_is_passed_over(
    elsewhere: Path,
) -> None:
    (elsewhere / "__pycache__").mkdir()
    (elsewhere / "__pycache__").chmod(0o777)
    assert build.build_kernels().library is not None
    assert not list((elsewhere / "__pycache__").iterdir())
    (made,) = (elsewhere.parent / "cache" / "native").iterdir()
    assert made.stat().st_mode & 0o777 == 0o755


@needs_kernels
def test_no_compiler_of_the_folder_one_stands_in_is_run(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = elsewhere.parent / "unpacked"
    hostile.mkdir()
    compiler(hostile, f"touch {hostile}/mark; exit 1")
    monkeypatch.chdir(hostile)
    monkeypatch.setenv("PATH", f".::{os.environ['PATH']}")
    assert build.build_kernels().library is not None
    assert not (hostile / "mark").exists()


@needs_kernels
def test_a_compiler_that_fails_leaves_nothing_and_says_why(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler(elsewhere, "echo 'no AVX2 for you' >&2; exit 1"))
    built = build.build_kernels()
    assert built.library is None
    assert built.problem.endswith("cc failed: no AVX2 for you")
    assert not list((elsewhere / "__pycache__").iterdir())


@needs_kernels
def test_a_library_that_is_none_is_refused(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler(elsewhere, "for last; do :; done; echo junk > $last"))
    built = build.build_kernels()
    assert built.library is None
    assert "invalid ELF header" in built.problem or "file too short" in built.problem


@pytest.fixture
def cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has another processor, by the line of /proc/cpuinfo that says what it can do."""
    monkeypatch.setattr(instruction_sets.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(instruction_sets.sys, "platform", "linux")
    monkeypatch.delenv(instruction_sets.LIMIT, raising=False)

    def become(flags: str) -> None:
        cpuinfo = tmp_path / "cpuinfo"
        cpuinfo.write_text(f"processor : 0\n{flags}\n")
        found = instruction_sets.cpu_flags(cpuinfo)
        monkeypatch.setattr(build, "cpu_flags", lambda: found)

    return become


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ("flags\t\t: fpu avx avx2 fma f16c", ""),
        ("flags\t\t: fpu avx fma", "this processor lacks avx2, f16c"),
        ("Features : neon", "/proc/cpuinfo lists no x86 CPU flags"),
    ],
)
def test_a_processor_without_what_they_use_has_none(
    cpu: Callable[[str], None], flags: str, problem: str
) -> None:
    cpu(flags)
    said = ""
    try:
        assert build._supported_isas() == ["avx2"]
    except build.CannotBuild as error:
        said = str(error)
    assert said == problem


AVX2 = "flags : avx2 fma f16c"
AVX512 = f"{AVX2} avx512f avx512bw avx512dq avx512vl"
AMX = f"{AVX512} avx512_bf16 amx_tile amx_bf16"


@pytest.mark.parametrize(
    ("flags", "limit", "expected"),
    [
        (AVX512, "", ["avx2", "avx512"]),
        (AMX, "", ["avx2", "avx512", "amx"]),
        (AMX, "amx", ["avx2", "avx512", "amx"]),
        (AMX, "avx512", ["avx2", "avx512"]),
        (AMX, "avx2", ["avx2"]),
        (AVX2, "amx", ["avx2"]),
        (f"{AVX2} avx512_bf16 amx_tile amx_bf16", "", ["avx2"]),  # each needs those before it
    ],
)
def test_the_environment_hides_instruction_sets(
    cpu: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    flags: str,
    limit: str,
    expected: list[str],
) -> None:
    cpu(flags)
    monkeypatch.setenv(instruction_sets.LIMIT, limit)
    assert build._supported_isas() == expected


def test_all_of_them_can_be_hidden(
    cpu: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu(AMX)
    monkeypatch.setenv(instruction_sets.LIMIT, "none")
    build.build_kernels.cache_clear()
    try:
        assert build.build_kernels().problem == "GLMTUI_CPU_ISA is set to none"
    finally:
        build.build_kernels.cache_clear()


@pytest.mark.parametrize(("limit", "dtype"), [("avx2", torch.float32), ("none", torch.float32)])
def test_products_of_torch_heed_the_limit(
    monkeypatch: pytest.MonkeyPatch, limit: str, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    for value, expected in ((limit, dtype), ("", torch.bfloat16)):
        monkeypatch.setenv(instruction_sets.LIMIT, value)
        cpu_dtype.product_dtype.cache_clear()
        assert cpu_dtype.product_dtype() == expected
    cpu_dtype.product_dtype.cache_clear()


def test_a_limit_that_is_none_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "glmtui", "doctor"],
        capture_output=True,
        text=True,
        env={**os.environ, "GLMTUI_CPU_ISA": "sse9"},
    )
    assert "GLMTUI_CPU_ISA is 'sse9'" in done.stdout
    assert "none, avx2, avx512, amx" in done.stdout
    assert done.returncode == 1


@needs_kernels
def test_a_compiler_that_does_not_know_an_instruction_set_makes_the_rest(
    elsewhere: Path, cpu: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = 'for flag; do case $flag in *amx*) echo "unknown: $flag" >&2; exit 1;; esac; done'
    monkeypatch.setenv("CC", compiler(elsewhere, f'{old}; exec cc "$@"'))
    cpu(AMX)
    library = build._load(build._supported_isas())
    assert "avx512" in Path(library._name).name


FAULTY = """
#include <stdlib.h>
static inline void emulated_fault(int tile, const void *at, long stride)
{
    (void)tile, (void)at, (void)stride;
    if (getenv("EMULATED_ABORT"))
        abort();
}
#undef _tile_loadd
#define _tile_loadd emulated_fault
"""


@needs_kernels
def test_an_instruction_set_that_fails_its_trial_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A processor that lists instructions and dies of them, or computes something else."""
    header = tmp_path / "faulty.h"
    header.write_text(FAULTY)
    path = tmp_path / "folder" / "kernels.so"
    path.parent.mkdir()
    build.compile_library(path, ISAS, (*FLAGS, "-O0", "-include", str(header)))
    library = ctypes.CDLL(str(path))
    assert [library.use_isa(level) for level in range(3)] == [0, 1, 1]
    monkeypatch.setenv("EMULATED_ABORT", "1")
    assert [library.use_isa(level) for level in range(3)] == [0, 1, 1]


def test_without_kernels_nothing_asks_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear.cpu_native, "available", lambda: False)
    choice = make_kernel_choice("auto", Path(), CPU, torch.bfloat16)
    layer = make_linear(quantize(normal(64, 128), 8), None, torch.bfloat16, choice)
    assert not isinstance(layer, NativeLinear)
    assert choice.selected == {"torch int8"}


def test_the_kernels_are_not_compiled_before_a_model_is_loaded() -> None:
    code = (
        "import glmtui.engine.loading.loader, glmtui.engine.nn.native.build as build;"
        "print(build.build_kernels.cache_info().currsize)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
