"""Limits of memory and time that a process sets on itself before it handles an untrusted file.

The process must have a single thread, and must have imported whatever it needs.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from pathlib import Path


def limit_memory(max_bytes: int) -> None:
    """Allows `max_bytes` beyond what is mapped now, and forbids writing files."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":  # other systems lack the limit, or do not tell what is in use
        return
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + max_bytes, final=True)
    _limit(resource.RLIMIT_FSIZE, 0, final=True)


def limit_time(seconds: float) -> None:
    """Makes the system kill the process (SIGXCPU) after so many seconds of CPU time from now."""
    _limit(resource.RLIMIT_CPU, math.ceil(time.process_time() + seconds), final=False)


def _limit(kind: int, value: int, *, final: bool) -> None:
    """Sets a limit, at most the hard limit it has. A `final` one cannot be raised again."""
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value if final else hard))
