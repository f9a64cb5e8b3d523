"""GPUs as NVML reports them, with a fake NVML."""

from __future__ import annotations

import os
import sys
import types

import pytest

from glmtui.engine.hardware import gpu
from glmtui.engine.hardware.gpu import Gpu, GpuProcess, list_gpus, other_processes

GB = 10**9
UUIDS = ["GPU-aaaa1111", "GPU-aaaa2222", "GPU-bbbb3333"]


class NVMLError(Exception):
    pass


class FakeNvml(types.ModuleType):
    """Three GPUs of 24 GB; a handle is a GPU's place on the bus."""

    NVMLError = NVMLError
    NVMLLibraryMismatchError = type("NVMLLibraryMismatchError", (Exception,), {})

    def __init__(self):
        super().__init__("pynvml")
        self.inits = 0
        self.processes = []

    def nvmlInit(self):  # noqa: N802
        self.inits += 1

    def nvmlDeviceGetCount(self):  # noqa: N802
        return len(UUIDS)

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return types.SimpleNamespace(at=index)

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        if uuid == "MIG-1":
            return types.SimpleNamespace(at=9)
        raise NVMLError("not found")

    def nvmlDeviceGetUUID(self, handle):  # noqa: N802
        return UUIDS[handle.at]

    def nvmlDeviceGetName(self, handle):  # noqa: N802
        return f"Fake {handle.at}"

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        return types.SimpleNamespace(total=24 * GB, free=(20 - handle.at) * GB, used=3 * GB)

    def nvmlDeviceGetUtilizationRates(self, handle):  # noqa: N802
        return types.SimpleNamespace(gpu=40 + handle.at, memory=5)

    def nvmlDeviceGetTemperature(self, handle, sensor):  # noqa: N802
        return 60

    def nvmlDeviceGetComputeRunningProcesses(self, handle):  # noqa: N802
        return self.processes


def process(pid, nbytes):
    return types.SimpleNamespace(pid=pid, usedGpuMemory=nbytes)


@pytest.fixture
def nvml(monkeypatch):
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    gpu._nvml.cache_clear()
    yield fake
    gpu._nvml.cache_clear()


def refuse(*args):
    raise NVMLError("not supported")


def test_a_gpu_in_numbers(nvml):
    nvml.processes = [process(os.getpid(), 2 * GB), process(1, GB), process(os.getpid(), GB)]
    assert tuple(list_gpus({}))[1] == Gpu(
        index=1,
        name="Fake 1",
        total=24 * GB,
        used=5 * GB,
        free=19 * GB,
        used_by_us=3 * GB,
        utilisation=41,
        temperature=60,
    )


def test_the_library_is_started_once(nvml):
    for _ in range(3):
        assert len(tuple(list_gpus({}))) == 3
    assert nvml.inits == 1


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        ("2,0", ["Fake 2", "Fake 0"]),
        (" 1 ", ["Fake 1"]),
        ("GPU-bbbb3333,1", ["Fake 2", "Fake 1"]),
        ("GPU-bbbb", ["Fake 2"]),
        ("GPU-aaaa", []),  # more than one begins so
        ("MIG-1,0", ["Fake 9", "Fake 0"]),
        ("0,7,1", ["Fake 0"]),
        ("1,-1,0", ["Fake 1"]),
        ("MIG-2,0", []),
        ("", []),
        ("-1", []),
    ],
)
def test_gpus_are_counted_as_cuda_counts_them(nvml, setting, names):
    gpus = tuple(list_gpus({"CUDA_VISIBLE_DEVICES": setting}))
    assert [found.name for found in gpus] == names
    assert [found.index for found in gpus] == list(range(len(names)))


def test_without_our_process_in_the_list_we_use_nothing_unless_in_a_container(nvml, monkeypatch):
    nvml.processes = [process(1, GB)]
    monkeypatch.setattr(gpu, "_in_first_pid_namespace", lambda: True)
    assert next(iter(list_gpus({}))).used_by_us == 0
    monkeypatch.setattr(gpu, "_in_first_pid_namespace", lambda: False)
    assert next(iter(list_gpus({}))).used_by_us is None


def test_what_the_driver_keeps_to_itself_is_unknown(nvml):
    nvml.processes = [process(os.getpid(), None)]
    assert next(iter(list_gpus({}))).used_by_us is None
    for name in ("MemoryInfo", "UtilizationRates", "Temperature", "ComputeRunningProcesses"):
        setattr(nvml, f"nvmlDeviceGet{name}", refuse)
    nvml.nvmlDeviceGetName = refuse
    assert next(iter(list_gpus({}))) == Gpu(0, "GPU")


def test_who_else_holds_a_gpus_memory(nvml, monkeypatch):
    nvml.processes = [process(71, 2 * GB), process(1234, 9 * GB), process(os.getpid(), 5 * GB)]
    nvml.processes.append(process(72, None))
    assert [other.pid for other in other_processes("cuda:0", {})] == [1234, 71]
    assert other_processes("cuda:0", {})[0].nbytes == 9 * GB
    assert other_processes("cuda:1", {"CUDA_VISIBLE_DEVICES": "2"}) == ()
    assert other_processes("cpu", {}) == ()
    assert GpuProcess(1234, "evil\x1b[0m", 9 * GB).label == "1234 (evil␛[0m)"
    assert GpuProcess(1234, "", 9 * GB).label == "1234"


def test_a_gpu_that_fell_off_the_bus_is_not_shown(nvml):
    nvml.nvmlDeviceGetHandleByIndex = refuse
    assert tuple(list_gpus({})) == ()


def test_a_driver_that_does_not_start_means_no_gpus(nvml):
    nvml.nvmlInit = refuse
    assert tuple(list_gpus({})) == ()


def test_no_nvml_means_no_gpus(nvml, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert tuple(list_gpus({})) == ()


@pytest.mark.gpu
def test_a_real_gpu():
    gpus = tuple(list_gpus(os.environ))
    if not gpus:
        pytest.skip("no GPU here")
    for found in gpus:
        assert found.total == (found.used or 0) + (found.free or 0)
