"""What this machine has and what of it is free: GPUs by NVML, memory, processors.

Knows no torch. Everything is a snapshot; None where the machine does not tell, never 0. Nothing
here raises for want of a driver.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmtui.engine.hardware import cgroup
from glmtui.sanitize import sanitize_line

_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # the kernel's PROC_PID_INIT_INO


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU; sizes in bytes.

    Attributes:
        index: as torch counts: the GPU is "cuda:INDEX".
        used: by everybody, the driver included: total less free.
        used_by_us: by this process; None in most containers, where NVML does not know us.
        utilisation: percent of the last moments in which it computed.
        temperature: degrees Celsius.
    """

    index: int
    name: str
    total: int | None = None
    used: int | None = None
    free: int | None = None
    used_by_us: int | None = None
    utilisation: int | None = None
    temperature: int | None = None


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Main memory in bytes, within the limits of a container.

    Attributes:
        available: what new work may use without swapping.
        used_by_us: resident in this process.
    """

    total: int | None = None
    available: int | None = None
    used_by_us: int | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The machine at one moment; `gpus` are those CUDA shows to this process."""

    gpus: tuple[Gpu, ...] = ()
    memory: HostMemory = HostMemory()


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether and where something fits.

    Attributes:
        fits: None where the machine does not tell.
        device: "cuda:0", "cpu", or empty.
        text: for people: "fits GPU 0", "fits memory", or what is missing.
    """

    fits: bool | None
    device: str
    text: str


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds memory of a GPU.

    Attributes:
        name: empty where it is not known, as in a container.
    """

    pid: int
    name: str
    nbytes: int

    @property
    def text(self) -> str:
        """For people: "process 1234 (python), which holds 9.0 GB"."""
        called = f" ({sanitize_line(self.name)})" if self.name else ""
        return f"process {self.pid}{called}, which holds {_gb(self.nbytes)}"


def snapshot(environ: Mapping[str, str] = os.environ) -> Snapshot:
    """The machine now. Milliseconds, but for the first call, which loads the driver's library."""
    return Snapshot(tuple(_gpus(environ)), _host_memory())


def fits(nbytes: int, machine: Snapshot) -> Fit:
    """Where `nbytes` of weights, cache and scratch fit: the first GPU with room, else memory."""
    places = [
        (f"cuda:{gpu.index}", f"GPU {gpu.index}", gpu.free, gpu.total) for gpu in machine.gpus
    ]
    places.append(("cpu", "memory", machine.memory.available, machine.memory.total))
    for device, name, free, _ in places:
        if free is not None and nbytes <= free:
            return Fit(True, device, f"fits {name}")
    known = [
        f"{name} has {_gb(free)} free" + (f" of {_gb(total)}" if total is not None else "")
        for _, name, free, total in places
        if free is not None
    ]
    text = f"needs {_gb(nbytes)}; {', '.join(known) or 'what is free is not known'}"
    return Fit(False if len(known) == len(places) else None, "", text)


def holders(device: str, environ: Mapping[str, str] = os.environ) -> tuple[Holder, ...]:
    """Who else holds memory of a GPU ("cuda:0"), the most first; nobody where it is not known."""
    kind, _, index = device.partition(":")
    nvml = _nvml() if kind == "cuda" else None
    if nvml is None:
        return ()
    handles = list(_visible(nvml, environ.get("CUDA_VISIBLE_DEVICES")))
    at = int(index or 0)
    running = nvml.ask("DeviceGetComputeRunningProcesses", handles[at]) if at < len(handles) else ()
    others = [
        Holder(process.pid, _name_of(process.pid), process.usedGpuMemory)
        for process in running or ()
        if process.pid != os.getpid() and process.usedGpuMemory
    ]
    return tuple(sorted(others, key=lambda holder: -holder.nbytes))


def _name_of(pid: int) -> str:
    if not _in_first_pid_namespace():
        return ""  # NVML's numbers are those outside
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return ""


def prepare_environment() -> None:
    """Sets what libraries read once, when they are first imported; call it before torch is.

    OpenMP threads that wait for each other spin by default, which stalls them for whole scheduler
    slices as soon as anything else wants a core. A shorter spin costs nothing on an idle machine
    and far less on a busy one; `pacing` does the rest. CUDA numbers GPUs as NVML does.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one text at a time: nothing to share


def physical_cores() -> int:
    """How many cores this process may use: its affinity's and its container's share; at least 1.

    Two hardware threads of one core count once: they share what matrix products are made of.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len({_core_of(cpu) for cpu in os.sched_getaffinity(0)})
    else:
        import psutil

        cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    quota = cgroup.limits().cpus
    return max(1, cores if quota is None else min(cores, int(quota)))


def peak_resident() -> int | None:
    """The most memory this process has had resident, in bytes; None where it is not told."""
    if sys.platform == "win32":
        return None
    status = Path("/proc/self/status")
    if status.is_file():  # what getrusage says may be the parent's, from before the program began
        said = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
        if said:
            return int(said[1]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """The processor's name as it says itself."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "cpu model"):
            return " ".join(value.split()) or None
    return platform.processor() or None


def _core_of(cpu: int) -> str:
    siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return siblings.read_text().strip()
    except OSError:
        return str(cpu)


def _host_memory() -> HostMemory:
    import psutil

    total = available = used_by_us = None
    try:
        memory = psutil.virtual_memory()
        total, available = memory.total, memory.available
        used_by_us = psutil.Process().memory_info().rss
    except (OSError, psutil.Error):
        pass  # a /proc that is not there or not ours: unknown
    limits = cgroup.limits()
    return HostMemory(
        total=_least(total, limits.memory),
        available=_least(available, limits.memory_left),
        used_by_us=used_by_us,
    )


def _least(*known: int | None) -> int | None:
    return min((number for number in known if number is not None), default=None)


def _gb(nbytes: int) -> str:
    return f"{nbytes / 1e9:.1f} GB"


# ---- NVML


class _Nvml:
    """The driver's library, started; answers None to what it does not know or support."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._errors = (library.NVMLError, library.NVMLLibraryMismatchError)

    def ask(self, what: str, *args: Any) -> Any:
        try:
            return getattr(self._library, f"nvml{what}")(*args)
        except self._errors:
            return None


@functools.cache
def _nvml() -> _Nvml | None:
    try:
        import pynvml

        pynvml.nvmlInit()
    except ImportError:
        return None
    except pynvml.NVMLError:
        return None  # no driver, or one that does not work
    return _Nvml(pynvml)


def _gpus(environ: Mapping[str, str]) -> Iterator[Gpu]:
    nvml = _nvml()
    if nvml is None:
        return
    for index, handle in enumerate(_visible(nvml, environ.get("CUDA_VISIBLE_DEVICES"))):
        memory = nvml.ask("DeviceGetMemoryInfo", handle)
        utilisation = nvml.ask("DeviceGetUtilizationRates", handle)
        yield Gpu(
            index=index,
            name=nvml.ask("DeviceGetName", handle) or "GPU",
            total=memory and memory.total,
            used=memory and memory.total - memory.free,
            free=memory and memory.free,
            used_by_us=_used_by_us(nvml, handle),
            utilisation=utilisation and utilisation.gpu,
            temperature=nvml.ask("DeviceGetTemperature", handle, 0),  # 0: of the chip
        )


def _visible(nvml: _Nvml, setting: str | None) -> Iterator[Any]:
    """The GPUs CUDA shows, in its order, as NVML's handles.

    As CUDA reads CUDA_VISIBLE_DEVICES: numbers and UUIDs (or their beginnings), up to the first
    that is none. A number is a place on the bus, which is CUDA's count too if CUDA_DEVICE_ORDER is
    PCI_BUS_ID or the GPUs are all alike.
    """
    handles = [
        nvml.ask("DeviceGetHandleByIndex", i) for i in range(nvml.ask("DeviceGetCount") or 0)
    ]
    if setting is None:
        yield from filter(None, handles)
        return
    for entry in map(str.strip, setting.split(",")):
        if entry.isdecimal():
            handle = handles[int(entry)] if int(entry) < len(handles) else None
        else:
            handle = _by_uuid(nvml, handles, entry)
        if handle is None:
            return
        yield handle


def _by_uuid(nvml: _Nvml, handles: list[Any], entry: str) -> Any:
    if entry.startswith("MIG-"):
        return nvml.ask("DeviceGetHandleByUUID", entry)
    if not entry.startswith("GPU-"):
        return None
    uuids = [nvml.ask("DeviceGetUUID", handle) or "" for handle in handles]
    found = [h for h, uuid in zip(handles, uuids, strict=True) if uuid.startswith(entry)]
    return found[0] if len(found) == 1 else None


def _used_by_us(nvml: _Nvml, handle: Any) -> int | None:
    processes = nvml.ask("DeviceGetComputeRunningProcesses", handle)
    if processes is None:
        return None
    ours = [process.usedGpuMemory for process in processes if process.pid == os.getpid()]
    if not ours and not _in_first_pid_namespace():
        return None  # NVML may call us by the number we have outside
    return None if None in ours else sum(ours)


def _in_first_pid_namespace() -> bool:
    try:
        return Path("/proc/self/ns/pid").stat().st_ino == _FIRST_PID_NAMESPACE
    except OSError:
        return False
