"""Memory that was freed goes back to the system, where the C library has to be asked for that."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from support import TESTS

# Frees 160 MB; prints how much of it was given back before the call of a method, and after.
HEAPED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from support.toy_decoder import toy

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024

model = toy()
torch.ones(7_000_000)  # once it is freed, blocks of 28 MB and less come from the heap
tensors = [torch.ones(200_000) for _ in range(200)]
above = torch.ones(200_000)  # keeps the heap from shrinking
full = resident()
del tensors
freed = resident()
getattr(model, sys.argv[2])()
print(full - freed, full - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="others give it back of themselves")
@pytest.mark.parametrize("method", ["forget", "close"])
def test_forgetting_gives_freed_memory_back(method: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HEAPED, str(TESTS), method],
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = map(int, done.stdout.split())
    assert before < 40_000_000  # of 160 MB: or there is nothing to ask for
    assert after > 120_000_000
