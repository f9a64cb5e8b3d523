"""The CPU: its name, the cores this process may use, and its instruction sets."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from glmtui.engine.hardware import cgroup
from glmtui.errors import ConfigError
from glmtui.language import _

ISA_VARIABLE = "GLMTUI_CPU_ISA"  # environment variable with the highest instruction set to use
# Flags of /proc/cpuinfo that each instruction set needs, besides those of the sets before it.
INSTRUCTION_SETS = {
    "avx2": {"avx2", "fma", "f16c"},
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "amx": {"avx512_bf16", "amx_tile", "amx_bf16"},
}
ISA_LIMITS = ("none", *INSTRUCTION_SETS)

CPUINFO = Path("/proc/cpuinfo")


def physical_cores() -> int:
    """Cores this process may use, by its CPU affinity and its container's quota; at least 1.

    Hyper-threads of one core count once, because they share its vector units.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len({_core_of(cpu) for cpu in os.sched_getaffinity(0)})
    else:
        import psutil

        cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    quota = cgroup.limits().cpus
    return max(1, cores if quota is None else min(cores, int(quota)))


def _core_of(cpu: int) -> str:
    """A key that the hyper-threads of one core share."""
    siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return siblings.read_text().strip()
    except OSError:
        return str(cpu)


def cpu_name(cpuinfo: Path = CPUINFO) -> str | None:
    """The processor's model name."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "cpu model"):
            return " ".join(value.split()) or None
    return platform.processor() or None


def cpu_flags(cpuinfo: Path = CPUINFO) -> set[str]:
    """The feature flags of an x86-64 processor on Linux; empty on other systems.

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


def instruction_sets(flags: set[str]) -> list[str]:
    """The instruction sets that a processor with these flags has and `isa_limit` allows.

    The lowest comes first. Raises as `isa_limit`.
    """
    found = []
    for name in ISA_LIMITS[1 : ISA_LIMITS.index(isa_limit()) + 1]:
        if not flags >= INSTRUCTION_SETS[name]:
            break
        found.append(name)
    return found


def isa_limit() -> str:
    """The highest instruction set that may be used: an entry of ISA_LIMITS, by default the last.

    Raises:
        ConfigError: the environment variable has another value.
    """
    value = os.environ.get(ISA_VARIABLE) or ISA_LIMITS[-1]
    if value not in ISA_LIMITS:
        raise ConfigError(
            _("{variable} has the unknown value {value!r}").format(
                variable=ISA_VARIABLE, value=value
            ),
            _("Set it to one of {choices}, or remove it.").format(choices=", ".join(ISA_LIMITS)),
        )
    return value
