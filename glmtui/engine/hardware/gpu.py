"""GPUs and the processes on them, as NVIDIA's management library (NVML) reports them.

Nothing here raises when there is no driver, no GPU or no permission: the answer is empty or None.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmtui.sanitize import sanitize_line

_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # inode number of the initial namespace, PROC_PID_INIT_INO
_TEMPERATURE_OF_CHIP = 0  # NVML_TEMPERATURE_GPU


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. Sizes are in bytes; None means that NVML does not report the value.

    Attributes:
        index: torch's number for it, as in "cuda:INDEX".
        used: memory used by all processes and the driver: total minus free.
        used_by_us: memory used by this process; None in most containers, where NVML knows this
            process by another id.
        utilisation: percentage of the last sampling period during which a kernel ran.
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
class GpuProcess:
    """A process that uses memory of a GPU.

    Attributes:
        name: the command name; empty if unknown, as in a container.
    """

    pid: int
    name: str
    nbytes: int

    @property
    def label(self) -> str:
        """Id and name for messages, such as "1234 (python)"."""
        return f"{self.pid} ({sanitize_line(self.name)})" if self.name else str(self.pid)


def list_gpus(environ: Mapping[str, str]) -> Iterator[Gpu]:
    """The GPUs that CUDA shows to a process with this environment, in CUDA's order."""
    nvml = _nvml()
    if nvml is None:
        return
    for index, handle in enumerate(_visible_handles(nvml, environ.get("CUDA_VISIBLE_DEVICES"))):
        memory = nvml.query("DeviceGetMemoryInfo", handle)
        utilisation = nvml.query("DeviceGetUtilizationRates", handle)
        yield Gpu(
            index=index,
            name=nvml.query("DeviceGetName", handle) or "GPU",
            total=memory and memory.total,
            used=memory and memory.total - memory.free,
            free=memory and memory.free,
            used_by_us=_used_by_us(nvml, handle),
            utilisation=utilisation and utilisation.gpu,
            temperature=nvml.query("DeviceGetTemperature", handle, _TEMPERATURE_OF_CHIP),
        )


def other_processes(device: str, environ: Mapping[str, str] = os.environ) -> tuple[GpuProcess, ...]:
    """Other processes with memory on a GPU ("cuda:0"), the largest first; empty if unknown."""
    kind, _, number = device.partition(":")
    nvml = _nvml() if kind == "cuda" else None
    if nvml is None:
        return ()
    handles = list(_visible_handles(nvml, environ.get("CUDA_VISIBLE_DEVICES")))
    index = int(number or 0)
    if index >= len(handles):
        return ()
    running = nvml.query("DeviceGetComputeRunningProcesses", handles[index]) or ()
    others = [
        GpuProcess(process.pid, _process_name(process.pid), process.usedGpuMemory)
        for process in running
        if process.pid != os.getpid() and process.usedGpuMemory
    ]
    return tuple(sorted(others, key=lambda process: -process.nbytes))


def _process_name(pid: int) -> str:
    if not _in_first_pid_namespace():
        return ""  # NVML's process ids are those of the first namespace
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return ""


class _Nvml:
    """The initialised NVML library."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._errors = (library.NVMLError, library.NVMLLibraryMismatchError)

    def query(self, function: str, *args: Any) -> Any:
        """The result of ``nvmlFUNCTION``; None if it fails or is not supported."""
        try:
            return getattr(self._library, f"nvml{function}")(*args)
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


def _visible_handles(nvml: _Nvml, setting: str | None) -> Iterator[Any]:
    """NVML handles of the GPUs that CUDA shows, in CUDA's order.

    CUDA_VISIBLE_DEVICES is read as CUDA reads it: a list of numbers and UUIDs (or unique prefixes
    of UUIDs), up to the first invalid entry. Numbers follow the PCI bus; CUDA agrees if
    CUDA_DEVICE_ORDER is PCI_BUS_ID or all GPUs are the same model.
    """
    handles = [
        nvml.query("DeviceGetHandleByIndex", i) for i in range(nvml.query("DeviceGetCount") or 0)
    ]
    if setting is None:
        yield from filter(None, handles)
        return
    for entry in map(str.strip, setting.split(",")):
        if entry.isdecimal():
            handle = handles[int(entry)] if int(entry) < len(handles) else None
        else:
            handle = _handle_by_uuid(nvml, handles, entry)
        if handle is None:
            return
        yield handle


def _handle_by_uuid(nvml: _Nvml, handles: list[Any], entry: str) -> Any:
    if entry.startswith("MIG-"):
        return nvml.query("DeviceGetHandleByUUID", entry)
    if not entry.startswith("GPU-"):
        return None
    uuids = [nvml.query("DeviceGetUUID", handle) or "" for handle in handles]
    found = [h for h, uuid in zip(handles, uuids, strict=True) if uuid.startswith(entry)]
    return found[0] if len(found) == 1 else None


def _used_by_us(nvml: _Nvml, handle: Any) -> int | None:
    processes = nvml.query("DeviceGetComputeRunningProcesses", handle)
    if processes is None:
        return None
    ours = [process.usedGpuMemory for process in processes if process.pid == os.getpid()]
    if not ours and not _in_first_pid_namespace():
        return None  # NVML may list this process by its id outside the container
    return None if None in ours else sum(ours)


def _in_first_pid_namespace() -> bool:
    try:
        return Path("/proc/self/ns/pid").stat().st_ino == _FIRST_PID_NAMESPACE
    except OSError:
        return False
