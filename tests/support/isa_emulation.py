"""The compiled kernels for every instruction set, on whatever machine there is.

What the processor has runs on it; what it lacks is compiled against `emulated.h`, which computes
AVX-512 and AMX number by number.
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


def compiled(more: tuple[str, ...] = ()) -> Path:
    """The library with every instruction set, those beyond AVX2 emulated; compiled once."""
    flags = (*FLAGS, *more)
    content = f"{build._fingerprint(list(ISAS))} {more}".encode() + HEADER.read_bytes()
    folder = Path(__file__).parent / "__pycache__"
    path = folder / f"emulated-{hashlib.sha256(content).hexdigest()[:16]}.so"
    if not path.exists():
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as unfinished:
            made = Path(unfinished) / path.name
            build.compile_library(made, ISAS, flags)
            made.replace(path)
    return path


@functools.cache
def emulated() -> ctypes.CDLL:
    return ctypes.CDLL(str(compiled()))


@contextmanager
def kernels_for(isa: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes the engine use the kernels of one instruction set."""
    real = build.build_kernels()
    if real.library is None:
        pytest.skip(real.problem)
    level = ISAS.index(isa)
    found = real.library if level <= ISAS.index(real.isa) else emulated()
    assert found.use_isa(level) == level
    with monkeypatch.context() as patch:
        for module in (library, kernels):
            patch.setattr(module, "build_kernels", lambda: build.BuildResult(found, isa))
        library.library.cache_clear()
        yield
    found.use_isa(ISAS.index(real.isa) if found is real.library else 0)
    library.library.cache_clear()
