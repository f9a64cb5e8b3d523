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
    most = pages * resource.getpagesize() + most_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def limit_time(seconds: float) -> None:
    """The system kills the process (SIGXCPU) when it uses more seconds of a core from now on."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + seconds), hard))
