"""A CUDA device guard for CPU builds of torch, which fake CUDA tensors need.

The guard does nothing. It is compiled once per process with torch's own headers.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch

GPUS = 8
SOURCE = f"""
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace {{
struct Guard final : public c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {{
  c10::DeviceIndex deviceCount() const noexcept override {{ return {GPUS}; }}
}};
C10_REGISTER_GUARD_IMPL(CUDA, Guard);
}}
"""


@functools.cache
def register_guard() -> str:
    """Registers the guard for this process; returns why that failed, or an empty string."""
    if torch.version.cuda or torch.version.hip:
        return ""  # a build with its own guard
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return "no C++ compiler found"
    root = Path(torch.__path__[0])
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "guard.cpp"), Path(folder, "guard.so")
        source.write_text(SOURCE)
        command = [compiler, "-std=c++20", "-O0", "-shared", "-fPIC", f"-I{root / 'include'}"]
        command += [str(source), f"-L{root / 'lib'}", "-lc10", "-o", str(library)]
        process = subprocess.run(command, capture_output=True, text=True)
        if process.returncode:
            return f"the guard does not compile: {process.stderr.strip().splitlines()[-1]}"
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    return ""


def require_guard() -> None:
    """Skips the test if there is no guard."""
    problem = register_guard()
    if problem:
        pytest.skip(f"fake CUDA tensors: {problem}")
