"""A disk that cannot be written: the app continues, says so, keeps everything and retries."""

from __future__ import annotations

import os
import re
import resource
import subprocess
from pathlib import Path

import pytest

from glmtui.store import Store, read_file
from support.emulated_terminal import Start, Terminal
from support.fake_server import FakeServer


def start_counting_reply(
    glmtui: Start, counter: FakeServer, folder: Path, **how: object
) -> Terminal:
    """An app in the middle of a reply that counts."""
    terminal = glmtui("-m", counter.url, folder=folder, **how)
    terminal.wait_for_text("ready")
    terminal.press(b"Count\r")
    terminal.wait_for_text("tok/s")
    return terminal


def count_saved_words(folder: Path) -> int:
    """How many words of the reply are on disk."""
    path = Store(folder / "data/conversations").load("last").path
    assert path[0].content == "Count"
    said = path[1].content.split() if len(path) > 1 else []
    assert said == [str(n) for n in range(1, len(said) + 1)]
    return len(said)


def fill_disk(folder: Path) -> Path:
    """Leaves no room on the disk that `folder` is on."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return filler


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


def test_a_disk_that_fills_up_in_mid_reply(
    glmtui: Start, counter: FakeServer, small_disk: Path
) -> None:
    terminal = start_counting_reply(glmtui, counter, small_disk)
    filler = fill_disk(small_disk)
    terminal.wait_for_text("No space left on device")
    terminal.wait_for_text("Free some space")
    terminal.wait_for_text("/export")
    before = count_saved_words(small_disk)
    terminal.wait_for_text(f" {before + 300} ")  # it goes on
    assert count_saved_words(small_disk) == before
    filler.unlink()
    terminal.wait_until(lambda: count_saved_words(small_disk) > before + 300)  # it tries again
    terminal.wait_until(lambda: "No space left" not in "\n".join(terminal.screen.display))
    terminal.press(b"\x11")  # Ctrl+Q
    assert terminal.wait_for_exit() == 0
    assert count_saved_words(small_disk) > before + 300


def test_leaving_with_the_disk_still_full(
    glmtui: Start, counter: FakeServer, small_disk: Path
) -> None:
    terminal = start_counting_reply(glmtui, counter, small_disk)
    fill_disk(small_disk)
    terminal.wait_for_text("No space left on device")
    terminal.press(b"\x11")
    assert terminal.wait_for_exit() == 0
    said = terminal.output.decode().rpartition("\x1b[?1049l")[2]
    where = re.search(r"a copy is in (\S+\.toml)", said)
    assert where is not None
    question, reply = read_file(Path(where[1])).path
    Path(where[1]).unlink()
    Path(where[1]).parent.rmdir()
    assert question.content == "Count"
    assert len(reply.content.split()) > count_saved_words(small_disk)


def test_a_disk_that_becomes_read_only(
    glmtui: Start, counter: FakeServer, small_disk: Path
) -> None:
    terminal = start_counting_reply(glmtui, counter, small_disk)
    # What is open for writing would hold it up: the lock, the log.
    subprocess.run(["mount", "--bind", str(small_disk), str(small_disk)], check=True)
    try:
        remount(small_disk, "bind,ro")
        terminal.wait_for_text("Read-only file system")
        terminal.wait_for_text("GLMTUI_DATA_DIR")
        before = count_saved_words(small_disk)
        terminal.wait_for_text(f" {before + 200} ")
        remount(small_disk, "bind,rw")
        terminal.wait_until(lambda: count_saved_words(small_disk) > before + 200)
    finally:
        subprocess.run(["umount", "--lazy", str(small_disk)], check=True)


def test_started_on_a_read_only_disk(glmtui: Start, counter: FakeServer, small_disk: Path) -> None:
    remount(small_disk, "ro")
    terminal = start_counting_reply(glmtui, counter, small_disk)
    terminal.wait_for_text("Read-only file system")
    terminal.press(b"/export " + str(small_disk.parent / "kept.toml").encode() + b"\r")
    terminal.wait_until((small_disk.parent / "kept.toml").exists)
    terminal.press(b"\x11")
    assert terminal.wait_for_exit() == 0
    assert read_file(small_disk.parent / "kept.toml").path[0].content == "Count"


def test_files_that_may_not_grow(glmtui: Start, counter: FakeServer, tmp_path: Path) -> None:
    limits = (2000, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    terminal = start_counting_reply(
        glmtui,
        counter,
        tmp_path,
        before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits),
    )
    terminal.wait_for_text("File too large")
    before = count_saved_words(tmp_path)
    terminal.wait_for_text(f" {before + 200} ")
    resource.prlimit(terminal.process.pid, resource.RLIMIT_FSIZE, (limits[1], limits[1]))
    terminal.wait_until(lambda: count_saved_words(tmp_path) > before + 200)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes where it may not")
def test_a_folder_that_may_not_be_written(
    glmtui: Start, counter: FakeServer, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir(mode=0o500)
    terminal = start_counting_reply(glmtui, counter, tmp_path)
    terminal.wait_for_text("Permission denied")
    terminal.wait_for_text("GLMTUI_DATA_DIR")
