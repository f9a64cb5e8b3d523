"""The compiled kernels for every instruction set, on any x86-64 machine.

Instruction sets that the CPU lacks are compiled with `emulated.h`, which implements AVX-512 and AMX
in plain C.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from glmtui.engine.nn.native import build, kernels, library

ISAS = tuple(build.PARTS)
HEADER = Path(__file__).with_name("emulated.h")
FLAGS = ("-O1", "-DEMULATED", "-Wno-psabi", "-include", str(HEADER))  # -O1 compiles twice as fast


def compile_emulated(more_flags: tuple[str, ...] = ()) -> Path:
    """Compiles the library with all instruction sets, those beyond AVX2 emulated.

    Returns:
        Its path in `__pycache__`, where later calls find it.
    """
    flags = (*FLAGS, *more_flags)
    content = f"{build._fingerprint(list(ISAS))} {more_flags}".encode() + HEADER.read_bytes()
    folder = Path(__file__).parent / "__pycache__"
    path = folder / f"emulated-{hashlib.sha256(content).hexdigest()[:16]}.so"
    if not path.exists():
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            unfinished = Path(temporary) / path.name
            build.compile_library(unfinished, ISAS, flags)
            unfinished.replace(path)
    return path


@functools.cache
def emulated_library() -> ctypes.CDLL:
    return ctypes.CDLL(str(compile_emulated()))


@contextmanager
def use_kernels(isa: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The engine uses the kernels for one instruction set, emulated if the CPU lacks it."""
    real = build.build_kernels()
    if real.library is None:
        pytest.skip(real.problem)
    level = ISAS.index(isa)
    loaded = real.library if level <= ISAS.index(real.isa) else emulated_library()
    assert loaded.use_isa(level) == level
    with monkeypatch.context() as patch:
        for module in (library, kernels):
            patch.setattr(module, "build_kernels", lambda: build.BuildResult(loaded, isa))
        library.library.cache_clear()
        yield
    loaded.use_isa(ISAS.index(real.isa) if loaded is real.library else 0)
    library.library.cache_clear()
