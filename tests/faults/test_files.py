"""Files that are written: whole or not at all, through links, and each by the one function."""

from __future__ import annotations

import ast
import errno
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from glmtui.chat import Conversation, Message, SamplingParams
from glmtui.cli.main import main
from glmtui.config import presets
from glmtui.errors import StoreError
from glmtui.store import Store, read_file
from glmtui.store.drafts import Drafts
from glmtui.store.locks import FolderLocks
from glmtui.store.question_history import QuestionHistory
from glmtui.system.durable_files import TEMPORARY_PREFIX, create_file, replace_file
from glmtui.ui.session.export import export

SOURCES = Path(presets.__file__).parents[1]

# ---- exports


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Conversation:
    """A saved conversation with half a surrogate pair in it, as JSON can bring one."""
    for name in ("DATA", "CONFIG", "CACHE", "STATE"):
        monkeypatch.setenv(f"GLMTUI_{name}_DIR", str(tmp_path / name.lower()))
    talk = Conversation.new().add(Message("user", "before"))
    with Store(tmp_path / "data/conversations", "json") as store:
        path = store.save(talk)
    path.write_text(path.read_text().replace('"before"', '"before \\ud800 after"'))
    return talk


@pytest.mark.parametrize("name", ["out.md", "out.toml", "out.json"])
def test_an_export_with_half_a_surrogate_pair(
    kept: Conversation, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / name
    file.write_text("what was there")
    assert main(["export", kept.id, "-o", str(file)]) == 0, capsys.readouterr().err
    assert "before \ufffd after" in file.read_text()


def test_an_export_that_fails_leaves_the_file(
    kept: Conversation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out.md"
    file.write_text("what was there")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        assert main(["export", kept.id, "-o", str(file)]) != 0
        with pytest.raises(StoreError, match="Could not write"):
            export(Store(tmp_path / "data/conversations").load("last"), tmp_path / "new.md")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "Could not write" in capsys.readouterr().err
    assert file.read_text() == "what was there"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out.md"]


def test_an_export_to_a_device_or_a_pipe_goes_into_it(kept: Conversation, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    assert main(["export", kept.id, "-o", str(pipe)]) == 0
    reader.join(10)
    assert "before" in got[0]
    assert pipe.is_fifo()
    assert main(["export", kept.id, "-o", "/dev/null"]) == 0
    assert Path("/dev/null").is_char_device()


# ---- links


def linked(path: Path) -> Path:
    """Has this file be a link to another, in a folder of its own."""
    target = path.parent.parent / "elsewhere" / f"real-{path.name}"
    target.parent.mkdir(exist_ok=True)
    path.rename(target)
    path.symlink_to(os.path.relpath(target, path.parent))
    return target


def test_a_conversation_that_is_a_link_stays_one(tmp_path: Path) -> None:
    store, talk = Store(tmp_path / "chats"), Conversation.new().add(Message("user", "q"))
    path = store.save(talk)
    target = linked(path)
    for n in range(3):
        talk = store.load(talk.id).add(Message("user", f"more {n}"))
        store.save(talk)
        assert path.is_symlink()
        assert f"more {n}" in target.read_text()
    assert read_file(path).path == talk.path
    store.amend(talk.id, title="Another")
    assert path.is_symlink()
    store.delete(talk.id)
    assert store.summaries() == []
    store.restore(talk.id)
    assert store.load(talk.id).title == "Another"
    assert "Another" in target.read_text()
    assert list(target.parent.iterdir()) == [target]


WRITERS: dict[str, Callable[[Path, str], object]] = {
    "presets.toml": lambda path, text: presets.save_preset(text, SamplingParams(top_k=5), path),
    "file.md": lambda path, text: replace_file(path, text.encode()),
    "draft": lambda path, text: Drafts(path.parent).write("draft", text),
}


@pytest.mark.parametrize("name", list(WRITERS))
def test_any_file_that_is_a_link_stays_one(tmp_path: Path, name: str) -> None:
    path = tmp_path / "folder" / name
    path.parent.mkdir()
    WRITERS[name](path, "first")
    target = linked(path)
    WRITERS[name](path, "second")
    assert path.is_symlink()
    assert "second" in target.read_text()


def test_what_was_sent_is_shortened_behind_a_link(tmp_path: Path) -> None:
    path = tmp_path / "folder/sent.jsonl"
    path.parent.mkdir()
    path.write_text("".join(f'"{n}"\n' for n in range(2500)))
    target = linked(path)
    assert QuestionHistory(path).read()[-1] == "2499"
    assert path.is_symlink()
    assert len(target.read_text().splitlines()) == 1000


def test_links_that_lead_nowhere_or_to_themselves(tmp_path: Path) -> None:
    nowhere, circle = tmp_path / "nowhere", tmp_path / "circle"
    nowhere.symlink_to("made-later")
    circle.symlink_to("circle")
    replace_file(nowhere, b"here")
    assert (tmp_path / "made-later").read_bytes() == b"here"
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        replace_file(circle, b"here")
    with pytest.raises(IsADirectoryError):
        replace_file(tmp_path, b"here")
    with pytest.raises(FileExistsError):
        create_file(circle, b"here")
    assert circle.is_symlink()


# ---- names that are taken, disks that cannot link


@pytest.mark.parametrize("number", [0, errno.EPERM, errno.EOPNOTSUPP])
def test_a_new_file_is_never_put_over_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    if number:  # as FAT and some network disks

        def hardlink_to(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(Path, "hardlink_to", hardlink_to)
    create_file(tmp_path / "file", b"first")
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_program_left_goes_after_an_hour(tmp_path: Path) -> None:
    old, fresh = tmp_path / f"{TEMPORARY_PREFIX}old.tmp", tmp_path / f"{TEMPORARY_PREFIX}fresh.tmp"
    for path in (old, fresh):
        path.write_text("")
    os.utime(old, (0, 0))
    Drafts(tmp_path).read("")
    assert sorted(path.name for path in tmp_path.glob("*.tmp")) == [fresh.name]


# ---- locks

HOLDER = """
import sys
from pathlib import Path
from glmtui.store.locks import FolderLocks
locks = FolderLocks(Path(sys.argv[1]))
print(locks.acquire("1f2e3d4c", seconds=0), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("removed_by", ["a program that cleans up", "hand"])
def test_releasing_a_lock_leaves_that_of_another(tmp_path: Path, removed_by: str) -> None:
    """Whatever removed the first file, another program has made and locked one since."""
    left = tmp_path / ".1f2e3d4c.lock"
    if removed_by == "hand":
        first = FolderLocks(tmp_path)
        assert first.acquire("1f2e3d4c")
        left.unlink()
        release: Callable[[], object] = lambda: first.release("1f2e3d4c")  # noqa: E731
    else:
        left.write_text("of a program that was killed")
        release = lambda: Store(tmp_path)  # noqa: E731
    unlink, others = Path.unlink, list[subprocess.Popen[str]]()

    def start_another() -> None:
        argv = [sys.executable, "-c", HOLDER, str(tmp_path)]
        pipe = subprocess.PIPE
        other = subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True)
        others.append(other)
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"

    def unlink_and_wait(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=missing_ok)
        if not others:  # in the instant after the first removal
            start_another()

    if removed_by == "hand":
        start_another()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "unlink", unlink_and_wait)
            release()
        assert others
        assert left.exists()
        assert not FolderLocks(tmp_path).acquire("1f2e3d4c", seconds=0)
    finally:
        for other in others:
            other.communicate("")


def test_two_programs_that_clean_up_at_once_hold_no_lock_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one finds left behind the other has just removed."""
    for name in ("1f2e3d4c", "5a5a5a5a"):
        (tmp_path / f".{name}-abcd1234.tmp").write_text("left behind")
    take = FolderLocks.acquire

    def slow_take(locks: FolderLocks, name: str, seconds: float = 0) -> bool:
        taken = take(locks, name, seconds)
        (tmp_path / f".{name}-abcd1234.tmp").unlink()
        return taken

    with monkeypatch.context() as patch:
        patch.setattr(FolderLocks, "acquire", slow_take)
        store = Store(tmp_path)
    assert store._locks.held() == ()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_moved_away_is_locked_again(tmp_path: Path) -> None:
    store, talk = Store(tmp_path / "chats"), Conversation.new().add(Message("user", "q"))
    store.save(talk)
    (tmp_path / "chats").rename(tmp_path / "moved")
    talk = talk.add(Message("user", "more"))
    store.save(talk)
    assert Store(tmp_path / "chats").load(talk.id) == talk
    assert not FolderLocks(tmp_path / "chats").acquire(talk.id, seconds=0)


def test_a_deleted_one_does_not_come_back_over_a_newer(tmp_path: Path) -> None:
    store, other = Store(tmp_path), Store(tmp_path)
    talk = Conversation.new().add(Message("user", "q"))
    store.save(talk)
    store.release(talk.id)
    other.load(talk.id)
    store.delete(talk.id)
    newer = talk.add(Message("user", "newer"))
    other.save(newer)  # another program had it in view
    other.release(talk.id)
    with pytest.raises(StoreError, match="not overwritten"):
        store.restore(talk.id)
    assert store.load(talk.id) == newer


def test_a_large_file_replaced_between_two_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program writes a large file anew between our reads of it and of what was new."""
    from glmtui.store import journal

    monkeypatch.setattr(journal, "LARGE_BYTES", 100)
    writer, reader = Store(tmp_path), Store(tmp_path)
    talk = Conversation.new().add(Message("user", "q" * 200))
    writer.save(talk)
    talk = talk.add(Message("user", "new"))
    writer.save(talk)
    read = journal.read

    def slow_read(*args: object) -> object:
        writer.save(replace(talk, title="Another"))
        return read(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(journal, "read", slow_read)
    assert [message.content for message in reader.load(talk.id).path][1:] == ["new"]


# ---- no other way

ELSEWHERE = {
    "engine/bench/worker.py": "a log that is appended to",
    "logs.py": "logs are appended to",
    "store/question_history.py": "lines are appended",
    "system/durable_files.py": "the one place",
    "store/locks.py": "a lock is no content",
    "ui/terminal/editor.py": "a new file under a name of its own, for an editor",
    "ui/terminal/driver.py": "the terminal",
    # files of a model are written into a folder that is put in place as a whole
    "engine/": "engine/pull/staging.py puts whole folders in place",
}


def writes(tree: ast.AST) -> list[int]:
    """The lines that open a file for writing, or write one."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        modes = [a.value for a in node.args if isinstance(a, ast.Constant)]
        modes += [k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)]
        text = ast.unparse(node)
        if (
            name in ("write_text", "write_bytes")
            or (name in ("open", "fdopen") and {"w", "x", "a", "wb", "xb", "ab"} & {*modes})
            or (name == "open" and "O_WRONLY" in text and "devnull" not in text)
            or (name == "open" and "O_RDWR" in text)
            or (name in ("copyfile", "copy2", "copy", "rename") and "shutil" in text)
        ):
            found.append(node.lineno)
    return found


def test_files_are_written_in_one_place() -> None:
    for path in SOURCES.rglob("*.py"):
        name = str(path.relative_to(SOURCES))
        if not name.startswith(tuple(ELSEWHERE)):
            lines = writes(ast.parse(path.read_text("utf-8")))
            assert not lines, f"{name}:{lines}: use glmtui.system.durable_files"
    assert writes(ast.parse((SOURCES / "system/durable_files.py").read_text()))
