"""Reports which kernels for packed weights a GPU supports, for `glmtui doctor`.

It runs no kernel: `kernel_selection` checks and times them when a model is loaded.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

from glmtui.engine.nn.linear import cpm, cuda

COMPILERS = ("clang", "gcc")  # the ones that Triton looks for if CC is not set


def unavailable_reasons(capability: tuple[int, int]) -> dict[str, str]:
    """For each kernel, why it cannot run on a GPU of this compute capability; empty if it can."""
    return {
        "tinygemm": _too_old(capability, cuda.TINYGEMM_CAPABILITY),
        "triton": _too_old(capability, cuda.TRITON_CAPABILITY) or _no_triton(),
        cpm.NAME: _no_cpm(capability),
    }


def _too_old(capability: tuple[int, int], least: tuple[int, int]) -> str:
    return "" if capability >= least else f"needs compute capability {_dotted(least)}"


def _no_triton() -> str:
    if importlib.util.find_spec("triton") is None:
        return "not installed"
    # Triton compiles a launcher in C for each of its kernels
    if not os.environ.get("CC") and not any(map(shutil.which, COMPILERS)):
        return f"no C compiler found ({' or '.join(COMPILERS)}), and CC is not set"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "the Python header files are not installed (python3-dev or python3-devel)"
    return ""


def _no_cpm(capability: tuple[int, int]) -> str:
    least, most = cpm.MIN_CAPABILITY, cpm.MAX_CAPABILITY
    if not least <= capability <= most:
        return f"supports only compute capabilities {_dotted(least)} to {_dotted(most)}"
    if importlib.util.find_spec(cpm.NAME) is None:
        return "not installed (pip install 'glmtui[cpm]')"
    try:
        importlib.import_module(f"{cpm.NAME}.kernels.base")
    except Exception as error:  # the import loads the driver's libraries and may raise anything
        return f"cannot be imported: {error}"
    return ""


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
