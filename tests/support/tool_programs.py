"""Python programs that tests run as tools."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from glmtui.tools import Invocation


def python_tool(code: str, *arguments: str, stdin: str = "", timeout: float = 20.0) -> Invocation:
    return Invocation((sys.executable, "-c", code, *arguments), stdin, timeout)


def wait_for_end(pid: int) -> bool:
    """Waits up to a minute for a process to end. Returns whether it did."""
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
