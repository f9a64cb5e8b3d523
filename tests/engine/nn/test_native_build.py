"""Compiling the kernels: once, only into safe folders; failure never prevents loading a model."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from glmtui.engine.hardware import cpu
from glmtui.engine.nn import cpu_dtype, linear
from glmtui.engine.nn.linear import NativeLinear, make_kernel_choice, make_linear
from glmtui.engine.nn.native import build
from glmtui.engine.nn.native.library import available
from glmtui.engine.nn.packed_weight import quantize
from support.isa_emulation import FLAGS, ISAS
from support.weights import random_weight

CPU = torch.device("cpu")
needs_kernels = pytest.mark.skipif(not available(), reason=build.build_kernels().problem)


@pytest.fixture
def source_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the sources that is not compiled yet, and an empty cache folder."""
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
def test_it_is_compiled_once_and_stored_next_to_its_source(
    source_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build.build_kernels().library is not None
    (library,) = (source_folder / "__pycache__").iterdir()
    assert library.suffix == ".so"
    build.build_kernels.cache_clear()
    monkeypatch.setenv("PATH", "")  # now no compiler is needed
    assert build.build_kernels().library is not None
    # a changed source needs another library
    source = source_folder / build.PARTS["avx2"].sources[0]
    source.write_text(source.read_text() + "\n/* changed */\n")
    build.build_kernels.cache_clear()
    assert build.build_kernels().problem == "no C compiler found"


@needs_kernels
def test_the_cache_folder_is_used_if_the_source_folder_is_not_writable(source_folder: Path) -> None:
    (source_folder / "__pycache__").write_text("not a folder")
    assert build.build_kernels().library is not None
    folder = source_folder.parent / "cache" / "native"
    assert [path.suffix for path in folder.iterdir()] == [".so"]
    assert folder.stat().st_mode & 0o777 == 0o700


@needs_kernels
def test_a_cache_folder_that_others_may_write_to_is_not_used(source_folder: Path) -> None:
    (source_folder / "__pycache__").write_text("not a folder")
    folder = source_folder.parent / "cache" / "native"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    result = build.build_kernels()
    assert result.library is None
    assert "other users may write" in result.problem


def fake_compiler(folder: Path, script: str) -> str:
    """The path of a compiler that is a shell script."""
    path = folder / "cc"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    return str(path)


@needs_kernels
def test_a_source_folder_that_others_may_write_to_is_not_used(
    source_folder: Path,
) -> None:
    (source_folder / "__pycache__").mkdir()
    (source_folder / "__pycache__").chmod(0o777)
    assert build.build_kernels().library is not None
    assert not list((source_folder / "__pycache__").iterdir())
    (library,) = (source_folder.parent / "cache" / "native").iterdir()
    assert library.stat().st_mode & 0o777 == 0o755


@needs_kernels
def test_no_compiler_in_the_working_folder_is_run(
    source_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = source_folder.parent / "unpacked"
    hostile.mkdir()
    fake_compiler(hostile, f"touch {hostile}/mark; exit 1")
    monkeypatch.chdir(hostile)
    monkeypatch.setenv("PATH", f".::{os.environ['PATH']}")
    assert build.build_kernels().library is not None
    assert not (hostile / "mark").exists()


@needs_kernels
def test_the_error_of_a_compiler_is_reported_and_nothing_is_stored(
    source_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", fake_compiler(source_folder, "echo 'no AVX2 for you' >&2; exit 1"))
    result = build.build_kernels()
    assert result.library is None
    assert result.problem.endswith("cc failed: no AVX2 for you")
    assert not list((source_folder / "__pycache__").iterdir())


@needs_kernels
def test_an_invalid_library_is_not_used(
    source_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "CC", fake_compiler(source_folder, "for last; do :; done; echo junk > $last")
    )
    result = build.build_kernels()
    assert result.library is None
    assert "invalid ELF header" in result.problem or "file too short" in result.problem


@pytest.fixture
def fake_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Pretends to have another CPU: takes the line of /proc/cpuinfo with its flags."""
    monkeypatch.setattr(cpu.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(cpu.sys, "platform", "linux")
    monkeypatch.delenv(cpu.ISA_VARIABLE, raising=False)

    def set_flags(flags: str) -> None:
        cpuinfo = tmp_path / "cpuinfo"
        cpuinfo.write_text(f"processor : 0\n{flags}\n")
        parsed = cpu.cpu_flags(cpuinfo)
        monkeypatch.setattr(build, "cpu_flags", lambda: parsed)

    return set_flags


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ("flags\t\t: fpu avx avx2 fma f16c", ""),
        ("flags\t\t: fpu avx fma", "this processor lacks avx2, f16c"),
        ("Features : neon", "/proc/cpuinfo lists no x86 CPU flags"),
    ],
)
def test_a_cpu_that_lacks_instructions_has_no_kernels(
    fake_cpu: Callable[[str], None], flags: str, problem: str
) -> None:
    fake_cpu(flags)
    reason = ""
    try:
        assert build._supported_isas() == ["avx2"]
    except build.CannotBuild as error:
        reason = str(error)
    assert reason == problem


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
        (
            f"{AVX2} avx512_bf16 amx_tile amx_bf16",
            "",
            ["avx2"],
        ),  # each one needs all of the lower ones
    ],
)
def test_the_environment_hides_instruction_sets(
    fake_cpu: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    flags: str,
    limit: str,
    expected: list[str],
) -> None:
    fake_cpu(flags)
    monkeypatch.setenv(cpu.ISA_VARIABLE, limit)
    assert build._supported_isas() == expected


def test_all_of_them_can_be_hidden(
    fake_cpu: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cpu(AMX)
    monkeypatch.setenv(cpu.ISA_VARIABLE, "none")
    build.build_kernels.cache_clear()
    try:
        assert build.build_kernels().problem == "GLMTUI_CPU_ISA is set to none"
    finally:
        build.build_kernels.cache_clear()


@pytest.mark.parametrize(("limit", "dtype"), [("avx2", torch.float32), ("none", torch.float32)])
def test_the_limit_also_applies_to_products_of_torch(
    monkeypatch: pytest.MonkeyPatch, limit: str, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    for value, expected in ((limit, dtype), ("", torch.bfloat16)):
        monkeypatch.setenv(cpu.ISA_VARIABLE, value)
        cpu_dtype.product_dtype.cache_clear()
        assert cpu_dtype.product_dtype() == expected
    cpu_dtype.product_dtype.cache_clear()


def test_an_invalid_limit_is_reported() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "glmtui", "doctor"],
        capture_output=True,
        text=True,
        env={**os.environ, "GLMTUI_CPU_ISA": "sse9"},
    )
    assert "GLMTUI_CPU_ISA has the unknown value 'sse9'" in process.stdout
    assert "none, avx2, avx512, amx" in process.stdout
    assert process.returncode == 1


@needs_kernels
def test_instruction_sets_that_the_compiler_does_not_support_are_left_out(
    source_folder: Path, fake_cpu: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = 'for flag; do case $flag in *amx*) echo "unknown: $flag" >&2; exit 1;; esac; done'
    monkeypatch.setenv("CC", fake_compiler(source_folder, f'{old}; exec cc "$@"'))
    fake_cpu(AMX)
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
def test_an_instruction_set_that_fails_its_test_run_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU whose instructions compute wrong results, and on one that kills the process."""
    header = tmp_path / "faulty.h"
    header.write_text(FAULTY)
    path = tmp_path / "folder" / "kernels.so"
    path.parent.mkdir()
    build.compile_library(path, ISAS, (*FLAGS, "-O0", "-include", str(header)))
    library = ctypes.CDLL(str(path))
    assert [library.use_isa(level) for level in range(3)] == [0, 1, 1]
    monkeypatch.setenv("EMULATED_ABORT", "1")
    assert [library.use_isa(level) for level in range(3)] == [0, 1, 1]


def test_layers_without_the_kernels_use_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear.cpu_native, "available", lambda: False)
    choice = make_kernel_choice("auto", Path(), CPU, torch.bfloat16)
    layer = make_linear(quantize(random_weight(64, 128), 8), None, torch.bfloat16, choice)
    assert not isinstance(layer, NativeLinear)
    assert choice.selected == {"torch int8"}


def test_the_kernels_are_not_compiled_before_a_model_is_loaded() -> None:
    code = (
        "import glmtui.engine.loading.loader, glmtui.engine.nn.native.build as build;"
        "print(build.build_kernels.cache_info().currsize)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "0"
