"""Which instruction sets of this CPU the kernels may use. Knows neither torch nor a kernel."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from glmtui.errors import ConfigError
from glmtui.language import _

LIMIT = "GLMTUI_CPU_ISA"  # the environment variable that hides instruction sets
# for each, the flags of /proc/cpuinfo that it needs, in addition to those of the sets before it
INSTRUCTION_SETS = {
    "avx2": {"avx2", "fma", "f16c"},
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "amx": {"avx512_bf16", "amx_tile", "amx_bf16"},
}
CHOICES = ("none", *INSTRUCTION_SETS)


def isa_limit() -> str:
    """The highest instruction set that may be used, one of CHOICES; the highest of all by default.

    Raises:
        ConfigError: the environment variable has another value.
    """
    wanted = os.environ.get(LIMIT) or CHOICES[-1]
    if wanted not in CHOICES:
        raise ConfigError(
            _("{variable} is {value!r}").format(variable=LIMIT, value=wanted),
            _("Set it to one of {choices}, or remove it.").format(choices=", ".join(CHOICES)),
        )
    return wanted


def instruction_sets(flags: set[str]) -> list[str]:
    """Those that a processor with these flags has and that may be used, the lowest first."""
    found = []
    for name in CHOICES[1 : CHOICES.index(isa_limit()) + 1]:
        if not flags >= INSTRUCTION_SETS[name]:
            break
        found.append(name)
    return found


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> set[str]:
    """What Linux says an x86-64 processor can do; empty elsewhere.

    Raises:
        OSError: the file cannot be read.
    """
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        return set()
    for line in cpuinfo.read_text(errors="replace").splitlines():
        name, _colon, value = line.partition(":")
        if name.strip() == "flags":
            return set(value.split())
    return set()
