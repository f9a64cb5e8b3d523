"""store: programs that die, disks that fail, files and folders that others change meanwhile."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from glmtui.chat import Conversation, Message
from glmtui.errors import ConversationChanged, ConversationInUse, StoreError
from glmtui.store import Store, locks

TALK = replace(Conversation.new(), id="1f2e3d4c").add(Message("user", "q"))
LONGER = TALK.add(Message("assistant", "a"))


def hidden(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


@contextmanager
def program(folder: Path, code: str) -> Iterator[subprocess.Popen[str]]:
    """Another process with a `store` on the same folder and TALK as `talk`."""
    start = f"""
import sys
from dataclasses import replace
from pathlib import Path
from glmtui.chat import Message
from glmtui.store import Store
store = Store(Path({str(folder)!r}))
talk = store.load("1f2e3d4c")
"""
    process = subprocess.Popen(
        [sys.executable, "-c", start + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


# ---- killed


def test_kill_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.save(TALK)
    for round_number in range(6):
        code = """
for n in range(10**9):
    store.save(talk.add(Message("assistant", f"{n} " * 20_000)))
    print(n, flush=True)
"""
        with program(tmp_path, code) as writer:
            assert writer.stdout is not None
            for _ in range(1 + round_number):
                saved = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        store = Store(tmp_path)
        assert hidden(tmp_path) == []
        question, reply = store.load("last").path
        assert question.content == "q"
        numbers = set(reply.content.split())
        assert len(numbers) == 1
        assert int(numbers.pop()) >= saved
        assert reply.finish_reason is None
        store.save(TALK)
        store.close()
        assert store.problems == ()


def test_what_a_dead_program_left_is_removed_and_what_a_living_one_uses_is_not(
    tmp_path: Path,
) -> None:
    Store(tmp_path).save(TALK)
    with program(tmp_path, "store.hold(talk.id); print('held', flush=True); input()") as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        (tmp_path / ".1f2e3d4c-abcd1234.tmp").write_text("being written")
        (tmp_path / ".aaaaaaaa-abcd1234.tmp").write_text("left behind")
        (tmp_path / ".aaaaaaaa.lock").write_text("left behind")
        (tmp_path / ".hidden").write_text("not ours")
        Store(tmp_path)
        assert hidden(tmp_path) == [".1f2e3d4c-abcd1234.tmp", ".1f2e3d4c.lock", ".hidden"]
        other.kill()
        other.wait()
    Store(tmp_path)
    assert hidden(tmp_path) == [".hidden"]


# ---- two programs, and a person with an editor


def test_another_program_cannot_save_what_is_open_here(tmp_path: Path) -> None:
    Store(tmp_path).save(TALK)
    with program(tmp_path, "store.save(talk); print('held', flush=True); input()") as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        here = Store(tmp_path)
        assert here.load(TALK.id) == TALK  # reading is free
        for attempt in (lambda: here.save(LONGER), lambda: here.delete(TALK.id)):
            with pytest.raises(ConversationInUse, match=f"process {other.pid} on"):
                attempt()
        assert here.load("last") == TALK
        copy = LONGER.fork()
        here.save(copy)
        assert here.load(copy.id) == copy
        other.communicate("\n")
        here.save(LONGER)
    assert here.load(TALK.id) == LONGER


def test_release_lets_the_other_have_it(tmp_path: Path) -> None:
    one, two = Store(tmp_path), Store(tmp_path)
    one.save(TALK)
    with pytest.raises(ConversationInUse):
        two.hold(TALK.id)
    one.release(TALK.id)
    two.load(TALK.id)
    two.save(LONGER)
    two.close()
    with pytest.raises(ConversationChanged):
        one.save(TALK)
    assert one.load(TALK.id) == LONGER


def test_a_file_edited_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.save(TALK)
    status = path.stat()
    edited = path.read_bytes().replace(b'"q"', b'"Q"')
    path.write_bytes(edited)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # and no time tells
    with pytest.raises(ConversationChanged, match=path.name):
        store.save(LONGER)
    assert path.read_bytes() == edited
    theirs = store.load(TALK.id)
    assert theirs.title == "Q"
    store.save(theirs.add(Message("assistant", "a")))
    assert [m.content for m in store.load(TALK.id).path] == ["Q", "a"]


def test_a_file_never_read_is_not_overwritten(tmp_path: Path) -> None:
    Store(tmp_path).save(TALK)
    with pytest.raises(ConversationChanged):
        Store(tmp_path).save(LONGER)


def test_touching_or_removing_the_file_stops_nobody(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.save(TALK)
    path.touch()
    assert store.save(LONGER) == path
    path.unlink()
    assert store.save(LONGER) == path
    assert store.load(TALK.id) == LONGER


def test_saving_and_opening_from_several_threads(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(TALK)
    errors: list[Exception] = []

    def work(save: bool) -> None:
        try:
            for n in range(40):
                if save:
                    store.save(TALK.add(Message("assistant", f"{n}")))
                else:
                    store.load(TALK.id)
                    store.summaries()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n == 0,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert store.load(TALK.id).path[-1].content == "39"


# ---- folders without locks


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", flock)


@pytest.mark.usefixtures("without_locks")
def test_a_folder_without_locks_works_and_says_so(tmp_path: Path) -> None:
    one, two = Store(tmp_path), Store(tmp_path)
    assert one.unlocked == ""
    one.save(TALK)
    assert one.unlocked == "No locks available"
    two.load(TALK.id)
    two.save(LONGER)
    with pytest.raises(ConversationChanged):
        one.save(TALK)


@pytest.mark.usefixtures("without_locks")
def test_without_locks_only_old_files_count_as_left_behind(tmp_path: Path) -> None:
    fresh, old = (tmp_path / f".1f2e3d4c-{name}.tmp" for name in ("fresh", "old"))
    for path in (fresh, old):
        path.write_text("")
    os.utime(old, (time.time() - 7200,) * 2)
    Store(tmp_path)
    assert hidden(tmp_path) == [fresh.name]


# ---- disks that fail


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.save(TALK)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(StoreError, match="cannot write to"):
            store.save(TALK.add(Message("assistant", "x" * 10_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert hidden(tmp_path) == [".1f2e3d4c.lock"]
    store.save(LONGER)
    assert store.load(TALK.id) == LONGER


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EDQUOT, "Free some space"),
        (errno.EROFS, "GLMTUI_DATA_DIR"),
        (errno.EACCES, "GLMTUI_DATA_DIR"),
    ],
)
@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_what_to_do_about_a_full_or_read_only_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, hint: str, step: str
) -> None:
    store = Store(tmp_path)
    path = store.save(TALK)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        if step == "fsync":
            patch.setattr(os, "fsync", fail)
        else:
            patch.setattr(Path, "replace", fail)
        with pytest.raises(StoreError) as caught:
            store.save(LONGER)
    assert str(tmp_path) in caught.value.message
    assert os.strerror(number) in caught.value.message
    assert hint in caught.value.hint
    assert path.read_bytes() == before
    assert hidden(tmp_path) == [".1f2e3d4c.lock"]
    store.save(LONGER)


def test_file_then_folder_are_synced_around_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.save(TALK)
    steps: list[str] = []
    sync, rename = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        steps.append("folder" if Path(f"/proc/self/fd/{handle}").readlink() == tmp_path else "file")
        sync(handle)

    def replace_(self: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace_)
    store.save(LONGER)
    assert steps == ["file", "rename", "folder"]


def test_a_reading_error_is_reported_and_the_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    path = store.save(TALK)
    other = store.save(replace(LONGER, id="00000002"))
    system_open = os.open

    def failing_open(name: Path, *rest: int) -> int:
        if name == path:
            raise OSError(errno.EIO, "Input/output error")
        return system_open(name, *rest)

    monkeypatch.setattr(os, "open", failing_open)
    assert [s.path for s in store.summaries()] == [other]
    assert "Input/output error" in store.problems[0].message
    assert path.name in store.problems[0].message
    assert path.exists()
