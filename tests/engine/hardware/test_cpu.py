"""Cores this process may use, and the processor's name."""

from __future__ import annotations

import os

import pytest

from glmtui.engine.hardware import cgroup, cpu


@pytest.mark.parametrize(("quota", "cores"), [(None, 4), (2.5, 2), (0.5, 1), (64.0, 4)])
def test_threads_of_one_core_count_once_and_a_quota_holds(monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(cpu, "_core_of", lambda number: f"{number % 4},{number % 4 + 4}")
    monkeypatch.setattr(cgroup, "limits", lambda: cgroup.Limits(cpus=quota))
    assert cpu.physical_cores() == cores


def test_cores_of_this_machine():
    assert 1 <= cpu.physical_cores() <= (os.cpu_count() or 1)


def test_the_processors_name(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: Fake  CPU @ 3 GHz\n")
    assert cpu.cpu_name(file) == "Fake CPU @ 3 GHz"
