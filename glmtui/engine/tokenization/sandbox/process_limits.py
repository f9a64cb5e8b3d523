"""Limits that a process sets on itself before it works for an untrusted file.

Imports nothing of glmtui. The process must have one thread, and whatever it needs imported.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from pathlib import Path


def limit_memory(most_bytes: int) -> None:
    """Refuses more than `most_bytes` beyond what is mapped now, and forbids writing files."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":  # elsewhere there is no such limit, or no telling what is in use
        return
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + most_bytes, for_good=True)
    _limit(resource.RLIMIT_FSIZE, 0, for_good=True)


def limit_time(seconds: float) -> None:
    """The system kills the process (SIGXCPU) when it uses more seconds of a core from now on."""
    _limit(resource.RLIMIT_CPU, math.ceil(time.process_time() + seconds), for_good=False)


def _limit(kind: int, most: int, *, for_good: bool) -> None:
    """Sets a limit, within what whoever started us allows; `for_good` it cannot be raised again."""
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(kind, (most, most if for_good else hard))
