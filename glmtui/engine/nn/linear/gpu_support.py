"""Which kernels can multiply with packed weights on a GPU, and why others cannot: for people.

Looks and runs none: which is right and fastest, `linear.choice` finds out as a model is loaded.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

from glmtui.engine.nn.linear import cpm, cuda

COMPILERS = ("clang", "gcc")  # that Triton looks for where CC is not set


def unavailable_reasons(capability: tuple[int, int]) -> dict[str, str]:
    """Why each kernel is not tried on a GPU of this compute capability; empty where it is."""
    return {
        "tinygemm": _too_old(capability, cuda.TINYGEMM_CAPABILITY),
        "triton": _too_old(capability, cuda.TRITON_CAPABILITY) or _no_triton(),
        cpm.NAME: _no_cpm(capability),
    }


def _too_old(capability: tuple[int, int], least: tuple[int, int]) -> str:
    return "" if capability >= least else f"it needs compute capability {_dotted(least)}"


def _no_triton() -> str:
    if importlib.util.find_spec("triton") is None:
        return "it is not installed"
    # for the few lines that start what it compiled
    if not os.environ.get("CC") and not any(map(shutil.which, COMPILERS)):
        return f"it finds no C compiler ({' or '.join(COMPILERS)}), nor does CC name one"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Python's header files are not installed (python3-dev or python3-devel)"
    return ""


def _no_cpm(capability: tuple[int, int]) -> str:
    least, most = cpm.LEAST_CAPABILITY, cpm.MOST_CAPABILITY
    if not least <= capability <= most:
        return f"it has machine code for {_dotted(least)} to {_dotted(most)} alone"
    if importlib.util.find_spec(cpm.NAME) is None:
        return "it is not installed (pip install 'glmtui[cpm]')"
    try:
        importlib.import_module(f"{cpm.NAME}.kernels.base")
    except Exception as error:  # it looks for the driver's libraries as it is imported
        return f"it cannot be imported: {error}"
    return ""


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
