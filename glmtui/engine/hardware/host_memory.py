"""Main memory: what is available within a container's limits, this process's peak, the C heap."""

from __future__ import annotations

import ctypes
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from glmtui.engine.hardware import cgroup


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Main memory in bytes, within the limits of a container; None means unknown.

    Attributes:
        available: memory that can be allocated without swapping.
        used_by_us: resident set size of this process.
    """

    total: int | None = None
    available: int | None = None
    used_by_us: int | None = None


def host_memory() -> HostMemory:
    """Main memory now."""
    import psutil

    total = available = used_by_us = None
    try:
        memory = psutil.virtual_memory()
        total, available = memory.total, memory.available
        used_by_us = psutil.Process().memory_info().rss
    except (OSError, psutil.Error):
        pass  # /proc is missing or not readable
    limits = cgroup.limits()
    return HostMemory(
        total=_least(total, limits.memory),
        available=_least(available, limits.memory_left),
        used_by_us=used_by_us,
    )


def _least(*values: int | None) -> int | None:
    return min((value for value in values if value is not None), default=None)


def peak_resident() -> int | None:
    """Peak resident set size of this process in bytes; None if the system does not report it."""
    if sys.platform == "win32":
        return None
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage may report the peak of the parent, from before exec
        match = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
        if match:
            return int(match[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def trim_heap() -> None:
    """Returns freed memory of the C heap to the system, if the C library is glibc.

    After larger blocks were freed, glibc serves tensors below 32 MB from the heap, and keeps all
    freed memory below the topmost block in use (mallopt(3), M_MMAP_THRESHOLD).
    """
    with suppress(AttributeError, OSError):  # musl and macOS have no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)
