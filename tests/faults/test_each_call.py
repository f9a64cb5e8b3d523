"""All that is written, cut short at each system call: the old state or the new one is found.

The program is killed before each call in turn; each call fails with each error that disks have,
once and from then on; and a power cut loses what was not synced, in every way that it may.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glmtui.store import Store
from support import disk_acts
from support.system_calls import (
    ForkServer,
    read_files,
    states_after_a_power_cut,
    write_files,
)

ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)


@pytest.fixture(scope="module")
def nursery() -> Iterator[ForkServer]:
    with ForkServer() as made:
        yield made


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "disk"
    folder.mkdir()
    disk_acts.prepare(folder)
    return folder


class Tried:
    """An act on copies of a prepared folder.

    Attributes:
        good: what may be found: the state before, after each step, and so the last after all.
    """

    def __init__(self, nursery: ForkServer, act: str, prepared: Path, tmp_path: Path) -> None:
        self._nursery, self._act = nursery, act
        self._prepared, self._tmp_path = prepared, tmp_path
        self._count = 0
        self.good = [seen(self.copy())]
        for steps in range(1, 4):
            self.good.append(seen(self.run(steps=steps)))

    def copy(self) -> Path:
        self._count += 1
        folder = self._tmp_path / f"disk{self._count}"
        shutil.copytree(self._prepared, folder, symlinks=True)
        return folder

    def run(self, *fault: Any, **how: Any) -> Path:
        folder = self.copy()
        self.outcome = self._nursery.run(self._act, folder, *fault, **how)
        return folder


def seen(folder: Path) -> dict[str, Any]:
    """What the next start finds: conversations, those in the trash, and files. Nothing may be
    unreadable or left over."""
    store = Store(folder / "chats")
    talks = {s.id: (s.title, texts(store, s.id)) for s in store.summaries()}
    trash = {path.stem[-8:] for path in (folder / "chats/trash").glob("*.toml")}
    for name in trash - talks.keys():
        store.restore(name)
        talks[f"trash {name}"] = (store.load(name).title, texts(store, name))
    assert store.problems == ()
    left = [path.name for path in (folder / "chats").rglob(".*")]
    assert [name for name in left if not name.endswith(".new")] == []
    assert list((folder / "chats").glob("*.bad")) == []
    assert (folder / "elsewhere").is_dir()
    assert [path.is_symlink() for path in (folder / "chats").glob("*11111111*")] == [True]
    files = {n: (folder / n).read_text() for n in ("file", "other") if (folder / n).exists()}
    draft = folder / "drafts" / disk_acts.SMALL
    return {**talks, **files, "draft": draft.read_text() if draft.exists() else ""}


def texts(store: Store, name: str) -> list[str]:
    return [message.content for message in store.load(name).path]


@pytest.fixture(params=list(disk_acts.ACTS))
def tried(
    request: pytest.FixtureRequest, nursery: ForkServer, prepared: Path, tmp_path: Path
) -> Tried:
    return Tried(nursery, request.param, prepared, tmp_path)


def test_killed_at_each_call(tried: Tried) -> None:
    tried.run()
    calls = tried.outcome.calls
    assert len(calls) > 3
    for at in range(len(calls)):
        found = seen(tried.run("kill", at))
        assert tried.outcome.died
        assert found in tried.good, calls[: at + 1]


def test_each_call_fails(tried: Tried) -> None:
    """What failed is done again once the disk is well: then all of it is there."""
    tried.run()
    calls = tried.outcome.calls
    failed = 0
    for at in range(len(calls)):
        number = ERRORS[at % len(ERRORS)]
        if calls[at] == "close":  # which never fails here, see `calls`
            continue
        for lasting in (False, True):
            found = seen(tried.run(str(number), at, permanent=lasting))
            assert not tried.outcome.died, (calls[: at + 1], "it failed again")
            failed += bool(tried.outcome.error)
            assert found in tried.good, (calls[: at + 1], tried.outcome.error)
            if "draft" not in tried._act:  # which nobody hears about
                assert found == tried.good[-1], (calls[: at + 1], tried.outcome.error)
    assert failed or "draft" in tried._act


def test_writes_that_take_a_part_only(tried: Tried) -> None:
    assert seen(tried.run("short", 0, permanent=True)) == tried.good[-1]


@pytest.mark.parametrize("tried", [a for a in disk_acts.ACTS if a != "a draft"], indirect=True)
def test_a_power_cut_at_each_call(tried: Tried, prepared: Path, tmp_path: Path) -> None:
    tried.run()
    states = 0
    cuts = states_after_a_power_cut(read_files(prepared), tried.outcome.log)
    for n, (ended, state) in enumerate(cuts):
        folder = tmp_path / f"cut{n}"
        write_files(folder, state)
        found = seen(folder)
        assert found in tried.good
        assert not ended or found == tried.good[-1]
        states += 1
    assert states > 2
