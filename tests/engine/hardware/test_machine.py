"""What the machine has: GPUs by a made-up NVML, limits by made-up files."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import psutil
import pytest

from glmtui.engine.hardware import cgroup
from glmtui.engine.hardware import machine as device
from glmtui.engine.hardware.machine import Gpu, HostMemory, Snapshot

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
    device._nvml.cache_clear()
    yield fake
    device._nvml.cache_clear()


def refuse(*args):
    raise NVMLError("not supported")


# ---- GPUs


def test_a_gpu_in_numbers(nvml):
    nvml.processes = [process(os.getpid(), 2 * GB), process(1, GB), process(os.getpid(), GB)]
    gpu = device.snapshot({}).gpus[1]
    assert gpu == Gpu(
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
        assert len(device.snapshot({}).gpus) == 3
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
    gpus = device.snapshot({"CUDA_VISIBLE_DEVICES": setting}).gpus
    assert [gpu.name for gpu in gpus] == names
    assert [gpu.index for gpu in gpus] == list(range(len(names)))


def test_without_our_process_in_the_list_we_use_nothing_unless_in_a_container(nvml, monkeypatch):
    nvml.processes = [process(1, GB)]
    monkeypatch.setattr(device, "_in_first_pid_namespace", lambda: True)
    assert device.snapshot({}).gpus[0].used_by_us == 0
    monkeypatch.setattr(device, "_in_first_pid_namespace", lambda: False)
    assert device.snapshot({}).gpus[0].used_by_us is None


def test_what_the_driver_keeps_to_itself_is_unknown(nvml):
    nvml.processes = [process(os.getpid(), None)]
    assert device.snapshot({}).gpus[0].used_by_us is None
    for name in ("MemoryInfo", "UtilizationRates", "Temperature", "ComputeRunningProcesses"):
        setattr(nvml, f"nvmlDeviceGet{name}", refuse)
    nvml.nvmlDeviceGetName = refuse
    assert device.snapshot({}).gpus[0] == Gpu(0, "GPU")


def test_who_else_holds_a_gpus_memory(nvml, monkeypatch):
    nvml.processes = [process(71, 2 * GB), process(1234, 9 * GB), process(os.getpid(), 5 * GB)]
    nvml.processes.append(process(72, None))
    assert [holder.pid for holder in device.holders("cuda:0", {})] == [1234, 71]
    assert device.holders("cuda:0", {})[0].nbytes == 9 * GB
    assert device.holders("cuda:1", {"CUDA_VISIBLE_DEVICES": "2"}) == ()
    assert device.holders("cpu", {}) == ()
    said = device.Holder(1234, "evil\x1b[0m", 9 * GB).text
    assert said == "process 1234 (evil␛[0m), which holds 9.0 GB"
    assert device.Holder(1234, "", 9 * GB).text == "process 1234, which holds 9.0 GB"


def test_a_gpu_that_fell_off_the_bus_is_not_shown(nvml):
    nvml.nvmlDeviceGetHandleByIndex = refuse
    assert device.snapshot({}).gpus == ()


def test_a_driver_that_does_not_start_means_no_gpus(nvml):
    nvml.nvmlInit = refuse
    assert device.snapshot({}).gpus == ()


def test_no_nvml_means_no_gpus(nvml, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert device.snapshot({}).gpus == ()


def test_importing_brings_in_neither_nvml_nor_torch():
    code = (
        "import sys, glmtui.engine.hardware.machine;"
        "print({'pynvml', 'psutil', 'torch'} & {*sys.modules})"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"


# ---- control groups


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def test_version_2_takes_the_tightest_of_a_group_and_those_around_it(tmp_path):
    base = "sys/fs/cgroup/job.slice"
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/job.slice/step",
            f"{base}/step/memory.max": "max",
            f"{base}/step/cpu.max": "max 100000",
            f"{base}/memory.max": str(8 * GB),
            f"{base}/memory.current": str(5 * GB),
            f"{base}/memory.stat": f"anon 1\ninactive_file {2 * GB}\nactive_file 7",
            f"{base}/cpu.max": "250000 100000",
        },
    )
    assert cgroup.limits(root) == cgroup.Limits(8 * GB, 5 * GB, 2.5)


def test_version_1_in_a_container_that_does_not_see_the_hosts_path(tmp_path):
    base = "sys/fs/cgroup"
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/docker/a\n4:memory:/docker/a\n1:name=systemd:/x",
            f"{base}/memory/memory.limit_in_bytes": str(4 * GB),
            f"{base}/memory/memory.usage_in_bytes": str(3 * GB),
            f"{base}/memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {GB}",
            f"{base}/cpu,cpuacct/cpu.cfs_quota_us": "50000",
            f"{base}/cpu,cpuacct/cpu.cfs_period_us": "100000",
        },
    )
    assert cgroup.limits(root) == cgroup.Limits(4 * GB, 2 * GB, 0.5)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": "garbage\n::\n0:memory"},
        {
            "proc/self/cgroup": "4:memory:/\n1:cpu:/",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        {
            "proc/self/cgroup": "0::/",
            "sys/fs/cgroup/memory.max": "max",
            "sys/fs/cgroup/cpu.max": "x",
        },
    ],
)
def test_no_limits(tmp_path, files):
    assert cgroup.limits(write(tmp_path, files)) == cgroup.Limits()


# ---- memory and processors


def limit(monkeypatch, *limits):
    monkeypatch.setattr(cgroup, "limits", lambda: cgroup.Limits(*limits))


def test_memory_is_the_machines_or_the_containers(monkeypatch):
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: types.SimpleNamespace(total=64 * GB, available=30 * GB)
    )
    limit(monkeypatch)
    memory = device.snapshot({"CUDA_VISIBLE_DEVICES": ""}).memory
    assert (memory.total, memory.available) == (64 * GB, 30 * GB)
    assert memory.used_by_us is not None
    assert 5 * 10**6 < memory.used_by_us < 64 * GB
    limit(monkeypatch, 8 * GB, 6 * GB)
    memory = device.snapshot({"CUDA_VISIBLE_DEVICES": ""}).memory
    assert (memory.total, memory.available) == (8 * GB, 6 * GB)
    limit(monkeypatch, 80 * GB, 50 * GB)
    memory = device.snapshot({"CUDA_VISIBLE_DEVICES": ""}).memory
    assert (memory.total, memory.available) == (64 * GB, 30 * GB)


def test_memory_that_cannot_be_read_is_unknown(monkeypatch):
    def no_proc():
        raise FileNotFoundError("/proc/meminfo")

    monkeypatch.setattr(psutil, "virtual_memory", no_proc)
    limit(monkeypatch)
    assert device.snapshot({"CUDA_VISIBLE_DEVICES": ""}).memory == HostMemory()


@pytest.mark.parametrize(("quota", "cores"), [(None, 4), (2.5, 2), (0.5, 1), (64.0, 4)])
def test_threads_of_one_core_count_once_and_a_quota_holds(monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(device, "_core_of", lambda cpu: f"{cpu % 4},{cpu % 4 + 4}")
    limit(monkeypatch, None, None, quota)
    assert device.physical_cores() == cores


def test_cores_of_this_machine():
    assert 1 <= device.physical_cores() <= (os.cpu_count() or 1)


def test_the_processors_name(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: Fake  CPU @ 3 GHz\n")
    assert device.cpu_name(file) == "Fake CPU @ 3 GHz"


# ---- what fits


def machine(*free, available=None):
    gpus = tuple(Gpu(i, "g", total=24 * GB, free=f) for i, f in enumerate(free))
    return Snapshot(gpus, HostMemory(total=64 * GB, available=available))


@pytest.mark.parametrize(
    ("found", "fits", "where", "text"),
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
        (machine(None), None, "", "needs 12.0 GB; what is free is not known"),
        (Snapshot(), None, "", "needs 12.0 GB; what is free is not known"),
    ],
)
def test_what_fits_where(found, fits, where, text):
    assert device.fits(12 * GB, found) == device.Fit(fits, where, text)


@pytest.mark.gpu
def test_a_real_gpu():
    gpus = device.snapshot().gpus
    if not gpus:
        pytest.skip("no GPU here")
    for gpu in gpus:
        assert gpu.total == (gpu.used or 0) + (gpu.free or 0)
