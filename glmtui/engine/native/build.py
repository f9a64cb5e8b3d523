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
from dataclasses import dataclass
from pathlib import Path

from glmtui import paths

HERE = Path(__file__).parent
HEADERS = ("numbers.h", "linear.h", "matrix.h", "attention.h")
SOURCES = ("linear.c", "matrix.c", "attention.c", "prenorm.c", "quantize.c")
FEW = 8  # tokens that are multiplied with a weight as it is packed; for more it is unpacked
FLAGS = ("-std=gnu11", "-O3", "-mavx2", "-mfma", "-mf16c", "-fno-math-errno", f"-DFEW={FEW}")
LINKING = ("-shared", "-fPIC", "-fopenmp", "-lm")
COMPILERS = ("cc", "gcc", "clang")
NEEDED = {"avx2", "fma", "f16c"}
NO_COMPILER = "there is no C compiler"
SECONDS = 120  # for a compiler; it takes about one

logger = logging.getLogger(__name__)


class CannotBuild(Exception):
    """Why there are no kernels here, in words."""


@dataclass(frozen=True, slots=True)
class Built:
    """What came of compiling.

    Attributes:
        library: None where there is none.
        problem: why there is none, in words.
    """

    library: ctypes.CDLL | None
    problem: str = ""


@functools.cache
def built() -> Built:
    """The kernels of this process; compiled if no earlier process did. Never raises."""
    try:
        _check_processor()
        return Built(_loaded())
    except (CannotBuild, OSError) as error:
        logger.info("there are no compiled kernels: %s", error)
        return Built(None, str(error))


def _check_processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise CannotBuild("they are for Linux on x86-64")
    for line in cpuinfo.read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            if missing := NEEDED - set(value.split()):
                raise CannotBuild(f"this processor lacks {', '.join(sorted(missing))}")
            return
    raise CannotBuild("the processor does not say what it can do")


def _loaded() -> ctypes.CDLL:
    name = f"kernels-{_fingerprint()}.so"
    beside, cache = HERE / "__pycache__" / name, paths.cache_dir() / "native" / name
    try:
        return _compiled(beside)
    except OSError:  # a folder where nothing may be written, or nothing run
        cache.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _others_may_write(cache.parent):
            raise CannotBuild(f"others may write to {cache.parent}") from None
        return _compiled(cache)


def _compiled(path: Path) -> ctypes.CDLL:
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        _compile(path)
    return ctypes.CDLL(str(path))


def _fingerprint() -> str:
    """Of all that decides what comes out."""
    parts = [(HERE / name).read_bytes() for name in (*HEADERS, *SOURCES)]
    return hashlib.sha256(b"\0".join([*parts, repr(FLAGS).encode()])).hexdigest()[:16]


def _compile(path: Path) -> None:
    """Writes the library whole or not at all; another process may do the same at the same time."""
    handle, unfinished = tempfile.mkstemp(suffix=".so", prefix="kernels-", dir=path.parent)
    os.close(handle)
    try:
        sources = [str(HERE / name) for name in SOURCES]
        argv = [*_compiler(), *FLAGS, *sources, *LINKING, "-o", unfinished]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, check=False)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
            raise CannotBuild(f"{argv[0]} failed: {said}")
        Path(unfinished).replace(path)
    except subprocess.TimeoutExpired as error:
        raise CannotBuild(f"{argv[0]} took more than {SECONDS} seconds") from error
    finally:
        Path(unfinished).unlink(missing_ok=True)


def _compiler() -> list[str]:
    """What $CC says, or the first C compiler there is."""
    asked = shlex.split(os.environ.get("CC", ""))
    for argv in filter(None, (asked, *([name] for name in COMPILERS))):
        if shutil.which(argv[0]):
            return argv
    raise CannotBuild(NO_COMPILER)


def _others_may_write(folder: Path) -> bool:
    status = folder.stat()
    return status.st_uid != os.getuid() or bool(status.st_mode & 0o022)
