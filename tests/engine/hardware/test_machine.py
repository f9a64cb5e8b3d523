"""What fits where, and what importing the module loads."""

from __future__ import annotations

import subprocess
import sys

import pytest

from glmtui.engine.hardware.gpu import Gpu
from glmtui.engine.hardware.host_memory import HostMemory
from glmtui.engine.hardware.machine import Fit, Snapshot, fits

GB = 10**9


def test_importing_brings_in_neither_nvml_nor_torch():
    code = (
        "import sys, glmtui.engine.hardware.machine;"
        "print({'pynvml', 'psutil', 'torch'} & {*sys.modules})"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"


def machine(*free, available=None):
    gpus = tuple(Gpu(i, "g", total=24 * GB, free=f) for i, f in enumerate(free))
    return Snapshot(gpus, HostMemory(total=64 * GB, available=available))


@pytest.mark.parametrize(
    ("found", "has_room", "device", "text"),
    [
        (machine(20 * GB, 22 * GB, available=60 * GB), True, "cuda:0", "fits GPU 0"),
        (machine(2 * GB, 22 * GB, available=60 * GB), True, "cuda:1", "fits GPU 1"),
        (machine(2 * GB, available=60 * GB), True, "cpu", "fits memory"),
        (machine(available=60 * GB), True, "cpu", "fits memory"),
        (machine(None, available=60 * GB), True, "cpu", "fits memory"),
        (
            machine(2 * GB, available=9 * GB),
            False,
            "",
            "needs 12.0 GB; GPU 0 has 2.0 GB free of 24.0 GB, memory has 9.0 GB free of 64.0 GB",
        ),
        (machine(None), None, "", "needs 12.0 GB; free memory is unknown"),
        (Snapshot(), None, "", "needs 12.0 GB; free memory is unknown"),
    ],
)
def test_what_fits_where(found, has_room, device, text):
    assert fits(12 * GB, found) == Fit(has_room, device, text)
