"""Compiling the kernels: once, where it may be written, and never a thing that stops a load."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_quant import normal

from glmtui.engine import linear
from glmtui.engine.linear import NativeLinear, kernel_choice, make_linear
from glmtui.engine.native import build
from glmtui.engine.native.library import available
from glmtui.engine.quant import quantize

CPU = torch.device("cpu")
needs_kernels = pytest.mark.skipif(not available(), reason=build.built().problem)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the sources, not compiled yet, and a cache folder of its own."""
    home = tmp_path / "native"
    home.mkdir()
    for name in (*build.HEADERS, *build.SOURCES):
        (home / name).write_bytes((build.HERE / name).read_bytes())
    monkeypatch.setattr(build, "HERE", home)
    monkeypatch.setenv("GLMTUI_CACHE_DIR", str(tmp_path / "cache"))
    build.built.cache_clear()
    yield home
    build.built.cache_clear()


@needs_kernels
def test_it_is_compiled_once_and_lies_beside_its_source(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build.built().library is not None
    (made,) = (elsewhere / "__pycache__").iterdir()
    assert made.suffix == ".so"
    build.built.cache_clear()
    monkeypatch.setenv("PATH", "")  # no compiler is needed any more
    assert build.built().library is not None
    # another source is another library
    source = elsewhere / build.SOURCES[0]
    source.write_text(source.read_text() + "\n/* changed */\n")
    build.built.cache_clear()
    assert build.built().problem == "there is no C compiler"


@needs_kernels
def test_where_nothing_may_be_written_the_cache_folder_has_it(elsewhere: Path) -> None:
    (elsewhere / "__pycache__").write_text("in the way")
    assert build.built().library is not None
    folder = elsewhere.parent / "cache" / "native"
    assert [path.suffix for path in folder.iterdir()] == [".so"]
    assert folder.stat().st_mode & 0o777 == 0o700


@needs_kernels
def test_a_folder_that_others_may_write_to_is_not_trusted(elsewhere: Path) -> None:
    (elsewhere / "__pycache__").write_text("in the way")
    folder = elsewhere.parent / "cache" / "native"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    built = build.built()
    assert built.library is None
    assert "others may write" in built.problem


def compiler(folder: Path, script: str) -> str:
    path = folder / "cc"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    return str(path)


@needs_kernels
def test_a_compiler_that_fails_leaves_nothing_and_says_why(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler(elsewhere, "echo 'no AVX2 for you' >&2; exit 1"))
    built = build.built()
    assert built.library is None
    assert built.problem.endswith("cc failed: no AVX2 for you")
    assert not list((elsewhere / "__pycache__").iterdir())


@needs_kernels
def test_a_library_that_is_none_is_refused(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler(elsewhere, "for last; do :; done; echo junk > $last"))
    built = build.built()
    assert built.library is None
    assert "invalid ELF header" in built.problem or "file too short" in built.problem


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ("flags\t\t: fpu avx avx2 fma f16c", ""),
        ("flags\t\t: fpu avx fma", "this processor lacks avx2, f16c"),
        ("Features : neon", "the processor does not say what it can do"),
    ],
)
def test_a_processor_without_what_they_use_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, problem: str
) -> None:
    monkeypatch.setattr(build.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(build.sys, "platform", "linux")
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\n{flags}\n")
    said = ""
    try:
        build._check_processor(cpuinfo)
    except build.CannotBuild as error:
        said = str(error)
    assert said == problem


def test_without_kernels_nothing_asks_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear.native, "available", lambda: False)
    choice = kernel_choice("auto", Path(), CPU, torch.bfloat16)
    layer = make_linear(quantize(normal(64, 128), 8), None, torch.bfloat16, choice)
    assert not isinstance(layer, NativeLinear)
    assert choice.used == {"torch int8"}


def test_the_kernels_are_not_compiled_before_a_model_is_loaded() -> None:
    code = (
        "import glmtui.engine.loader, glmtui.engine.native.build as build;"
        "print(build.built.cache_info().currsize)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
