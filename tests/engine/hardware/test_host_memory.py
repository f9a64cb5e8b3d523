"""Main memory within the limits of a container, and freed memory of the C heap."""

from __future__ import annotations

import platform
import subprocess
import sys
import types

import psutil
import pytest

from glmtui.engine.hardware import cgroup
from glmtui.engine.hardware.host_memory import HostMemory, host_memory
from support import TESTS

GB = 10**9

# Frees 160 MB; prints how much of it was given back before the call of a method, and after.
PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from support.toy_decoder import toy_model

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024

model = toy_model()
torch.ones(7_000_000)  # once it is freed, blocks of 28 MB and less come from the heap
tensors = [torch.ones(200_000) for _ in range(200)]
above = torch.ones(200_000)  # keeps the heap from shrinking
full = resident()
del tensors
freed = resident()
getattr(model, sys.argv[2])()
print(full - freed, full - resident())
"""


def limit(monkeypatch, *limits):
    monkeypatch.setattr(cgroup, "limits", lambda: cgroup.Limits(*limits))


def test_memory_is_the_machines_or_the_containers(monkeypatch):
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: types.SimpleNamespace(total=64 * GB, available=30 * GB)
    )
    limit(monkeypatch)
    memory = host_memory()
    assert (memory.total, memory.available) == (64 * GB, 30 * GB)
    assert memory.used_by_us is not None
    assert 5 * 10**6 < memory.used_by_us < 64 * GB
    limit(monkeypatch, 8 * GB, 6 * GB)
    memory = host_memory()
    assert (memory.total, memory.available) == (8 * GB, 6 * GB)
    limit(monkeypatch, 80 * GB, 50 * GB)
    memory = host_memory()
    assert (memory.total, memory.available) == (64 * GB, 30 * GB)


def test_memory_that_cannot_be_read_is_unknown(monkeypatch):
    def no_proc():
        raise FileNotFoundError("/proc/meminfo")

    monkeypatch.setattr(psutil, "virtual_memory", no_proc)
    limit(monkeypatch)
    assert host_memory() == HostMemory()


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other C libraries do so without malloc_trim"
)
@pytest.mark.parametrize("method", ["clear_cache", "close"])
def test_forgetting_gives_freed_memory_back(method: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(TESTS), method],
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = map(int, done.stdout.split())
    assert before < 40_000_000  # of 160 MB: or there is nothing to ask for
    assert after > 120_000_000
