"""Programs that tests run as tools, and whether they ended."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from glmtui.tools import Invocation


def python(code: str, *arguments: str, stdin: str = "", timeout: float = 20.0) -> Invocation:
    return Invocation((sys.executable, "-c", code, *arguments), stdin, timeout)


def ends(pid: int) -> bool:
    """Whether a process that was sent a signal ends of it, given a moment."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False
