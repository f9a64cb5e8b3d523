"""Limits of a container on memory and CPU time: control groups, versions 1 and 2.

Reads the files described in https://docs.kernel.org/admin-guide/cgroup-v2.html and cgroup-v1/,
at the usual mount points. A missing or malformed file counts as no limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_NO_LIMIT = 1 << 60  # bytes; version 1 writes a number near 2**63 if there is no limit


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on this process; None means no limit.

    Attributes:
        memory: bytes for all processes of the container together.
        memory_left: bytes of `memory` that are free; file cache that can be dropped counts as free.
        cpus: processors for all processes together; may be a fraction.
    """

    memory: int | None = None
    memory_left: int | None = None
    cpus: float | None = None


def limits(root: Path = Path("/")) -> Limits:
    """The tightest limits of this process's group and all groups around it."""
    memory, left, cpus = list[int](), list[int](), list[float]()
    for group in _groups(root, "memory"):
        limit = _number(group / "memory.max") or _number(group / "memory.limit_in_bytes")
        if limit is None or limit >= _NO_LIMIT:
            continue
        used = _number(group / "memory.current") or _number(group / "memory.usage_in_bytes") or 0
        memory.append(limit)
        left.append(max(0, limit - used + _droppable(group)))
    for group in _groups(root, "cpu"):
        quota, _, period = _read(group / "cpu.max").partition(" ")
        if not period:
            quota = _read(group / "cpu.cfs_quota_us")
            period = _read(group / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period):
            cpus.append(int(quota) / int(period))
    return Limits(min(memory, default=None), min(left, default=None), min(cpus, default=None))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's group and of the groups around it, innermost first."""
    mounts = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:  # version 2; next to version 1 it is mounted at "unified"
            candidates = [mounts, mounts / "unified"]
        elif controller in controllers.split(","):
            candidates = [mounts / controllers, mounts / controller]
        else:
            continue
        top = next((folder for folder in candidates if folder.is_dir()), None)
        if top is None:
            continue
        # In a container the path may be the host's and not exist; its own group is then `top`.
        group = top / path.lstrip("/")
        while group != top:
            yield group
            group = group.parent
        yield top


def _droppable(group: Path) -> int:
    """Bytes of file cache that the kernel drops when memory is needed."""
    stat = dict(
        line.split(" ", 1) for line in _read(group / "memory.stat").splitlines() if " " in line
    )
    value = stat.get("total_inactive_file") or stat.get("inactive_file") or ""
    return int(value) if value.isdecimal() else 0


def _number(file: Path) -> int | None:
    text = _read(file)
    return int(text) if text.isdecimal() else None


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
