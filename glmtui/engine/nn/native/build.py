"""Compiles the kernels on the machine that runs them, once, and loads them.

The shared library lies beside its source, as Python's own compiled files do, or in the user's
cache folder where that may not be written. Knows compilers and files, no tensor.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from glmtui.engine.hardware.cpu import (
    INSTRUCTION_SETS,
    ISA_VARIABLE,
    cpu_flags,
    instruction_sets,
)
from glmtui.system import paths
from glmtui.system.durable_files import make_private_folder
from glmtui.system.programs import find_program

HERE = Path(__file__).parent
HEADERS = (
    "numbers.h",
    "linear.h",
    "matrix.h",
    "attention.h",
    "attention_chunk.h",
    "isa.h",
    "numbers512.h",
    "tiles.h",
)
FEW_TOKENS = 8  # tokens that are multiplied with a weight as it is packed; for more it is unpacked
FLAGS = (
    *("-std=gnu11", "-O3", "-fPIC", "-fopenmp", "-fno-math-errno", f"-DFEW={FEW_TOKENS}"),
    *("-mavx2", "-mfma", "-mf16c"),
)
LINKING = ("-shared", "-fopenmp", "-lm")
COMPILERS = ("cc", "gcc", "clang")
NO_COMPILER = "there is no C compiler"
SECONDS = 120  # for a compiler; it takes about two

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """The sources for one instruction set, a key of `cpu.INSTRUCTION_SETS`.

    Attributes:
        flags: for the compiler, beside FLAGS.
        macro: says to the other sources that this part is there.
    """

    sources: tuple[str, ...]
    flags: tuple[str, ...] = ()
    macro: str = ""


AVX512_FLAGS = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
PARTS = {
    "avx2": Part(("linear.c", "matrix.c", "attention.c", "prenorm.c", "quantize.c", "isa.c")),
    "avx512": Part(("attention_avx512.c",), AVX512_FLAGS, "-DWITH_AVX512"),
    "amx": Part(
        ("matrix_amx.c", "attention_amx.c"),
        (*AVX512_FLAGS, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"),
        "-DWITH_AMX",
    ),
}


class CannotBuild(Exception):
    """Why there are no kernels here, in words."""


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What came of compiling.

    Attributes:
        library: None where there is none.
        isa: what the library uses, a key of `cpu.INSTRUCTION_SETS`.
        problem: why there is no library, in words.
    """

    library: ctypes.CDLL | None
    isa: str = ""
    problem: str = ""


@functools.cache
def build_kernels() -> BuildResult:
    """The kernels of this process; compiled if no earlier process did.

    Raises:
        ConfigError: see `cpu.isa_limit`.
    """
    try:
        names = _instruction_sets()
        library = _loaded(names)
    except (CannotBuild, OSError) as error:
        logger.info("there are no compiled kernels: %s", error)
        return BuildResult(None, problem=str(error))
    isa = list(PARTS)[library.use_isa(len(names) - 1)]
    if isa != names[-1]:
        logger.warning("%s failed its trial on this processor; %s is used", names[-1], isa)
    return BuildResult(library, isa)


def _instruction_sets() -> list[str]:
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise CannotBuild("they are for Linux on x86-64")
    flags = cpu_flags()
    if not flags:
        raise CannotBuild("the processor does not say what it can do")
    if missing := INSTRUCTION_SETS["avx2"] - flags:
        raise CannotBuild(f"this processor lacks {', '.join(sorted(missing))}")
    names = instruction_sets(flags)
    if not names:
        raise CannotBuild(f"{ISA_VARIABLE} says so")
    return names


def _loaded(names: list[str]) -> ctypes.CDLL:
    """The library for these instruction sets, or as many of them as the compiler knows."""
    try:
        return _loaded_for(names)
    except CannotBuild as error:
        if len(names) == 1:
            raise
        logger.warning("the kernels for %s cannot be compiled: %s", names[-1], error)
    return _loaded(names[:-1])


def _loaded_for(names: list[str]) -> ctypes.CDLL:
    name = f"kernels-{names[-1]}-{_fingerprint(names)}.so"
    beside, cache = HERE / "__pycache__", paths.cache_dir() / "native"
    try:
        beside.mkdir(mode=0o755, exist_ok=True)
        if not _others_may_write(beside):
            return _compiled(beside / name, names)
    except OSError as error:  # a folder where nothing may be written, or nothing run
        logger.info("the kernels cannot lie in %s: %s", beside, error)
    make_private_folder(cache)
    for folder in (cache, cache.parent):
        if _others_may_write(folder):
            raise CannotBuild(f"others may write to {folder}")
    return _compiled(cache / name, names)


def _compiled(path: Path, names: list[str]) -> ctypes.CDLL:
    if not path.exists():
        with tempfile.TemporaryDirectory(prefix="kernels-", dir=path.parent) as folder:
            unfinished = Path(folder) / path.name
            compile_library(unfinished, names)
            unfinished.chmod(0o755)  # all who may run the program may load it
            unfinished.replace(path)  # whole or not at all, whoever else does the same
    return ctypes.CDLL(str(path))


def _fingerprint(names: list[str]) -> str:
    """Of all that decides what comes out."""
    parts = [PARTS[name] for name in names]
    files = [*HEADERS, *(source for part in parts for source in part.sources)]
    contents = [(HERE / name).read_bytes() for name in files]
    return hashlib.sha256(b"\0".join([*contents, repr((FLAGS, parts)).encode()])).hexdigest()[:16]


def compile_library(path: Path, names: Sequence[str], more: Sequence[str] = ()) -> None:
    """Writes the library; object files go beside it.

    Args:
        path: in a folder of its own.
        names: of instruction sets.
        more: flags for the compiler, in place of those of the instruction sets (for tests).

    Raises:
        CannotBuild: no compiler, or it failed.
    """
    compiler, parts = _compiler(), [PARTS[name] for name in names]
    macros = [part.macro for part in parts if part.macro]
    for part in parts:
        sources = [str(HERE / name) for name in part.sources]
        _run([*compiler, *FLAGS, *macros, *(more or part.flags), "-c", *sources], path.parent)
    objects = [str(found) for found in sorted(path.parent.glob("*.o"))]
    _run([*compiler, *objects, *LINKING, *more, "-o", str(path)], path.parent)


def _run(argv: list[str], folder: Path) -> None:
    """Runs a compiler in a folder, into which it puts what it makes."""
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=SECONDS, check=False, cwd=folder
        )
    except subprocess.TimeoutExpired as error:
        raise CannotBuild(f"{argv[0]} took more than {SECONDS} seconds") from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
        raise CannotBuild(f"{argv[0]} failed: {said}")


def _compiler() -> list[str]:
    """What $CC says, or the first C compiler there is in an absolute folder of PATH."""
    asked = shlex.split(os.environ.get("CC", ""))
    if asked and (named := shutil.which(asked[0])):
        return [str(Path(named).absolute()), *asked[1:]]
    for found in map(find_program, COMPILERS):
        if found:
            return [found]
    raise CannotBuild(NO_COMPILER)


def _others_may_write(folder: Path) -> bool:
    """Whether somebody other than this user and the administrator may, in groups included."""
    status = folder.stat()
    return status.st_uid not in (0, os.getuid()) or bool(status.st_mode & 0o022)
