"""Limits of control groups, read from made-up files."""

from __future__ import annotations

import pytest

from glmtui.engine.hardware import cgroup

GB = 10**9


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
