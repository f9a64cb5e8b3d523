"""What a container may use of the machine: the limits of its control groups, versions 1 and 2.

Knows the files of https://docs.kernel.org/admin-guide/cgroup-v2.html and of its predecessor, where
they are usually mounted. Anything missing or odd there is no limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_NO_LIMIT = 1 << 60  # version 1 says "none" with a number near 2**63


@dataclass(frozen=True, slots=True)
class Limits:
    """Attributes, each None where there is no limit:

    memory: bytes that all processes of the container may use together.
    memory_left: of those, what is not in use; file cache that can be dropped counts as left.
    cpus: how many processors' time they may use together; may be a fraction.
    """

    memory: int | None = None
    memory_left: int | None = None
    cpus: float | None = None


def limits(root: Path = Path("/")) -> Limits:
    """The limits on this process: the tightest of its group and all groups around it."""
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
    """The folders of this process's group and of those around it, innermost first."""
    mounts = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:  # version 2; beside version 1 it is mounted at "unified"
            tops = [mounts, mounts / "unified"]
        elif controller in controllers.split(","):
            tops = [mounts / controllers, mounts / controller]
        else:
            continue
        top = next((top for top in tops if top.is_dir()), None)
        if top is None:
            continue
        # In a container the path may be the host's and missing here: its own group is the top.
        group = top / path.lstrip("/")
        while group != top:
            yield group
            group = group.parent
        yield top


def _droppable(group: Path) -> int:
    stat = dict(
        line.split(" ", 1) for line in _read(group / "memory.stat").splitlines() if " " in line
    )
    told = stat.get("total_inactive_file") or stat.get("inactive_file") or ""
    return int(told) if told.isdecimal() else 0


def _number(file: Path) -> int | None:
    text = _read(file)
    return int(text) if text.isdecimal() else None


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
