"""Compiles the kernels once on each machine, and loads them.

The shared library is stored in `__pycache__` next to its source, or in the user's cache folder if
that is not writable. Its name contains a hash of everything that it depends on.
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

SOURCE_FOLDER = Path(__file__).parent
HEADERS = (
    "simd.h",
    "simd512.h",
    "amx_tiles.h",
    "isa.h",
    "linear.h",
    "gemm.h",
    "attention.h",
    "attention_parts.h",
    "attention_chunk_template.h",
)
# up to this many tokens at once, products read the packed weight; with more, it is unpacked first
FEW_TOKENS = 8
FLAGS = (
    *("-std=gnu11", "-O3", "-fPIC", "-fopenmp", "-fno-math-errno", f"-DFEW_TOKENS={FEW_TOKENS}"),
    *("-mavx2", "-mfma", "-mf16c"),
)
LINK_FLAGS = ("-shared", "-fopenmp", "-lm")
COMPILERS = ("cc", "gcc", "clang")
NO_COMPILER = "no C compiler found"
COMPILE_TIMEOUT = 120  # seconds; compiling takes about two

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """The sources that are compiled for one instruction set.

    Attributes:
        flags: compiler flags in addition to FLAGS.
        macro: compiler flag for all parts, which declares that this part exists.
    """

    sources: tuple[str, ...]
    flags: tuple[str, ...] = ()
    macro: str = ""


AVX512_FLAGS = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
PARTS = {  # by key of `instruction_sets.INSTRUCTION_SETS`
    "avx2": Part(
        ("linear.c", "gemm.c", "attention.c", "decoder_step.c", "quantize.c", "isa.c"),
    ),
    "avx512": Part(("attention_avx512.c",), AVX512_FLAGS, "-DWITH_AVX512"),
    "amx": Part(
        ("gemm_amx.c", "attention_amx.c"),
        (*AVX512_FLAGS, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"),
        "-DWITH_AMX",
    ),
}


class CannotBuild(Exception):
    """The kernels cannot be compiled; the message is the reason, for users."""


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The loaded library, or the reason why there is none.

    Attributes:
        isa: the instruction set that the library uses, a key of PARTS.
        problem: why `library` is None, for users.
    """

    library: ctypes.CDLL | None
    isa: str = ""
    problem: str = ""


@functools.cache
def build_kernels() -> BuildResult:
    """Loads the kernels of this process, after compiling them if no earlier process has.

    Raises:
        ConfigError: see `cpu.isa_limit`.
    """
    try:
        names = _supported_isas()
        library = _load(names)
    except (CannotBuild, OSError) as error:
        logger.info("no compiled kernels: %s", error)
        return BuildResult(None, problem=str(error))
    isa = list(PARTS)[library.use_isa(len(names) - 1)]
    if isa != names[-1]:
        logger.warning("%s failed its test run on this CPU; using %s", names[-1], isa)
    return BuildResult(library, isa)


def _supported_isas() -> list[str]:
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise CannotBuild("the kernels need Linux on x86-64")
    flags = cpu_flags()
    if not flags:
        raise CannotBuild("/proc/cpuinfo lists no x86 CPU flags")
    if missing := INSTRUCTION_SETS["avx2"] - flags:
        raise CannotBuild(f"this processor lacks {', '.join(sorted(missing))}")
    names = instruction_sets(flags)
    if not names:
        raise CannotBuild(f"{ISA_VARIABLE} is set to none")
    return names


def _load(names: list[str]) -> ctypes.CDLL:
    """Loads the library for these instruction sets, or for those that the compiler supports."""
    try:
        return _load_exactly(names)
    except CannotBuild as error:
        if len(names) == 1:
            raise
        logger.warning("could not compile the kernels for %s: %s", names[-1], error)
    return _load(names[:-1])


def _load_exactly(names: list[str]) -> ctypes.CDLL:
    name = f"kernels-{names[-1]}-{_fingerprint(names)}.so"
    pycache, cache = SOURCE_FOLDER / "__pycache__", paths.cache_dir() / "native"
    try:
        pycache.mkdir(mode=0o755, exist_ok=True)
        if not _others_may_write(pycache):
            return _compile_and_load(pycache / name, names)
    except OSError as error:  # not writable, or mounted noexec
        logger.info("could not store the kernels in %s: %s", pycache, error)
    make_private_folder(cache)
    for folder in (cache, cache.parent):
        if _others_may_write(folder):
            raise CannotBuild(f"other users may write to {folder}")
    return _compile_and_load(cache / name, names)


def _compile_and_load(path: Path, names: list[str]) -> ctypes.CDLL:
    if not path.exists():
        with tempfile.TemporaryDirectory(prefix="kernels-", dir=path.parent) as folder:
            unfinished = Path(folder) / path.name
            compile_library(unfinished, names)
            unfinished.chmod(0o755)  # other users of this installation may load it
            unfinished.replace(path)  # atomic: several processes may compile at once
    return ctypes.CDLL(str(path))


def _fingerprint(names: list[str]) -> str:
    """Hash of everything that the library depends on."""
    parts = [PARTS[name] for name in names]
    files = [*HEADERS, *(source for part in parts for source in part.sources)]
    contents = [(SOURCE_FOLDER / name).read_bytes() for name in files]
    return hashlib.sha256(b"\0".join([*contents, repr((FLAGS, parts)).encode()])).hexdigest()[:16]


def compile_library(path: Path, names: Sequence[str], test_flags: Sequence[str] = ()) -> None:
    """Compiles the library.

    Args:
        path: of the library, in an empty folder that also receives the object files.
        names: of instruction sets, keys of PARTS.
        test_flags: compiler flags that replace those of the instruction sets, for tests.

    Raises:
        CannotBuild: there is no compiler, or it failed.
    """
    compiler, parts = _compiler(), [PARTS[name] for name in names]
    macros = [part.macro for part in parts if part.macro]
    for part in parts:
        sources = [str(SOURCE_FOLDER / name) for name in part.sources]
        _run([*compiler, *FLAGS, *macros, *(test_flags or part.flags), "-c", *sources], path.parent)
    objects = [str(file) for file in sorted(path.parent.glob("*.o"))]
    _run([*compiler, *objects, *LINK_FLAGS, *test_flags, "-o", str(path)], path.parent)


def _run(argv: list[str], folder: Path) -> None:
    """Runs a compiler with `folder` as its working folder, where it writes its output."""
    try:
        process = subprocess.run(
            argv, capture_output=True, text=True, timeout=COMPILE_TIMEOUT, check=False, cwd=folder
        )
    except subprocess.TimeoutExpired as error:
        raise CannotBuild(f"{argv[0]} took more than {COMPILE_TIMEOUT} seconds") from error
    if process.returncode:
        lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        raise CannotBuild(f"{argv[0]} failed: {lines[0]}")


def _compiler() -> list[str]:
    """The command of $CC, or the first C compiler found in an absolute folder of PATH."""
    command = shlex.split(os.environ.get("CC", ""))
    if command and (path := shutil.which(command[0])):
        return [str(Path(path).absolute()), *command[1:]]
    for found in map(find_program, COMPILERS):
        if found:
            return [found]
    raise CannotBuild(NO_COMPILER)


def _others_may_write(folder: Path) -> bool:
    """Whether anyone but this user and root may write to it; a group counts as other users."""
    status = folder.stat()
    return status.st_uid not in (0, os.getuid()) or bool(status.st_mode & 0o022)
