"""Exit under bad conditions: a disk that hangs or is full, a connection that is lost.

What the data folder could not take is in a temporary folder after the program has ended.
"""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import subprocess
import termios
import time
from pathlib import Path

import pytest

from glmtui.chat import Conversation, Message
from glmtui.store import Store, read_file
from support.emulated_terminal import Start, Terminal
from support.fake_server import Exchange, FakeServer, delta, serving

PLAIN = ("-s", "ui.plain=true")

# In one folder fsync, or opening a conversation, waits for as long as a file is there.
HANGING = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static void hang(const char *path, const char *mark) {
    char file[4096];
    snprintf(file, sizeof file, "%s.%s", getenv("HANGING_FOLDER"), mark);
    if (strstr(path, getenv("HANGING_FOLDER")) == path)
        while (access(file, F_OK) == 0)
            usleep(20000);
}
int fsync(int handle) {
    char link[64], path[4096] = {0};
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    if (readlink(link, path, sizeof path - 1) > 0)
        hang(path, "hangs");
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(handle);
}
int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    int mode = va_arg(rest, int);
    va_end(rest);
    if (strstr(path, ".toml"))
        hang(path, "reads-hang");
    return ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64"))(path, flags, mode);
}
"""


@pytest.fixture(scope="module")
def hanging(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that makes the disk of a folder hang."""
    folder = tmp_path_factory.mktemp("hanging")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("a disk that hangs is made with a C compiler")
    (folder / "hanging.c").write_text(HANGING)
    argv = [compiler, "-shared", "-fPIC", "-o", "hanging.so", "hanging.c", "-ldl"]
    subprocess.run(argv, cwd=folder, check=True)
    return folder / "hanging.so"


def hanging_disk_environ(library: Path, folder: Path) -> dict[str, str]:
    return {
        "LD_PRELOAD": str(library),
        "HANGING_FOLDER": str(folder / "data"),
        **temporary_folder_environ(folder),
    }


def temporary_folder_environ(folder: Path) -> dict[str, str]:
    (folder / "temporary").mkdir()
    return {"TMPDIR": str(folder / "temporary")}


def start_counting_reply(terminal: Terminal, question: bytes = b"Count") -> None:
    """In the middle of a reply that counts."""
    terminal.wait_for_text("ready")
    terminal.press(question + b"\r")
    terminal.wait_for_text(" 20 ")


def block_folders(folder: Path) -> None:
    """From now on the folders of conversations and drafts take nothing, not even from root."""
    for name in ("data/conversations", "state/drafts"):
        if (folder / name).exists():
            (folder / name).rename(folder / f"moved-{name.partition('/')[2]}")
        (folder / name).write_text("a file in the way")


def rescued_conversations(folder: Path) -> dict[str, Conversation]:
    """What is in the temporary folder, by the first question. Only its owner may read it."""
    files = list((folder / "temporary").glob("glmtui-*/*.toml"))
    assert {path.stat().st_mode & 0o777 for path in files} <= {0o600}
    found = [read_file(path) for path in files]
    return {talk.path[0].content: talk for talk in found}


def check_counted(talk: Conversation, least: int) -> None:
    words = talk.path[1].content.split()
    assert words == [str(n) for n in range(1, len(words) + 1)]
    assert len(words) >= least


def read_log(folder: Path) -> str:
    return (folder / "state/glmtui.log").read_text()


# ---- a disk that hangs


def test_a_disk_that_hangs_in_mid_reply(
    glmtui: Start, counter: FakeServer, tmp_path: Path, hanging: Path
) -> None:
    terminal = glmtui("-m", counter.url, environ=hanging_disk_environ(hanging, tmp_path))
    start_counting_reply(terminal)
    (tmp_path / "data.hangs").touch()
    began = time.monotonic()
    terminal.wait_for_text("not saved")
    assert time.monotonic() - began < 5  # two seconds after the next save has begun
    terminal.wait_for_text("The disk has not answered")
    seen = max(
        int(word) for word in " ".join(terminal.screen.display[:-8]).split() if word.isdigit()
    )
    terminal.press(b"\x11")  # Ctrl+Q
    began = time.monotonic()
    assert terminal.wait_for_exit() == 0
    assert time.monotonic() - began < 6
    assert "a copy is in" in terminal.output.decode().rpartition("\x1b[?1049l")[2]
    check_counted(rescued_conversations(tmp_path)["Count"], seen)


def test_a_disk_that_hangs_and_answers_again(
    glmtui: Start, counter: FakeServer, tmp_path: Path, hanging: Path
) -> None:
    terminal = glmtui("-m", counter.url, environ=hanging_disk_environ(hanging, tmp_path))
    start_counting_reply(terminal)
    (tmp_path / "data.hangs").touch()
    terminal.wait_for_text("not saved")
    (tmp_path / "data.hangs").unlink()
    terminal.wait_until(lambda: "not saved" not in "\n".join(terminal.screen.display))
    terminal.press(b"\x11")
    assert terminal.wait_for_exit() == 0
    assert rescued_conversations(tmp_path) == {}
    check_counted(Store(tmp_path / "data/conversations").load("last"), 20)


def test_leaving_while_something_else_waits_for_the_disk(
    glmtui: Start, counter: FakeServer, tmp_path: Path, hanging: Path
) -> None:
    """A thread that reads the others waits too, and the end of the app's loop for that thread."""
    with Store(tmp_path / "data/conversations") as store:
        store.save(old_conversation())
    terminal = glmtui("-m", counter.url, environ=hanging_disk_environ(hanging, tmp_path))
    start_counting_reply(terminal)
    (tmp_path / "data.hangs").touch()
    terminal.wait_for_text("not saved")
    (tmp_path / "data.reads-hang").touch()
    terminal.press(b"/open Old\r")
    terminal.wait_for_text("Enter opens")
    terminal.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert terminal.wait_for_exit() == 128 + signal.SIGTERM
    assert time.monotonic() - began < 14
    assert termios.tcgetattr(terminal.slave) == terminal.modes
    check_counted(rescued_conversations(tmp_path)["Count"], 20)


def old_conversation() -> Conversation:
    talk = Conversation.new().add(Message("user", "Old question"))
    return talk.add(Message("assistant", "Old answer", finish_reason="stop"))


def test_a_disk_that_hangs_in_the_plain_chat(
    glmtui: Start, counter: FakeServer, tmp_path: Path, hanging: Path
) -> None:
    environ = hanging_disk_environ(hanging, tmp_path)
    terminal = glmtui("-m", counter.url, *PLAIN, environ=environ)
    terminal.wait_for_text("/help")
    terminal.press(b"Count\r")
    terminal.wait_for_text(" 20 ")
    (tmp_path / "data.hangs").touch()
    terminal.wait_until(lambda: b"The disk has not answered" in terminal.output)
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.wait_for_exit() == 128 + signal.SIGTERM
    check_counted(rescued_conversations(tmp_path)["Count"], 20)


# ---- a disk that takes nothing, and a link that drops


def hang_up(terminal: Terminal, number: int) -> int:
    """The terminal goes, and signals come as from the kernel, from a shell and from a manager."""
    os.close(terminal.slave)
    os.close(terminal.master)
    for _ in range(3):
        if terminal.process.poll() is None:
            terminal.process.send_signal(number)
        time.sleep(0.02)
    code = terminal.process.wait(20)
    terminal.master, terminal.slave = pty.openpty()  # for the fixture to close
    return code


def test_the_link_drops_with_several_conversations_unsaved(
    glmtui: Start, counter: FakeServer, tmp_path: Path
) -> None:
    terminal = glmtui("-m", counter.url, environ=temporary_folder_environ(tmp_path))
    start_counting_reply(terminal)
    block_folders(tmp_path)
    terminal.wait_for_text("not saved")
    for question in (b"Second", b"Third"):
        terminal.press(b"/new\r")
        terminal.wait_until(lambda: " 20 " not in "\n".join(terminal.screen.display))
        terminal.press(question + b"\r")
        terminal.wait_for_text(" 20 ")
    terminal.press(b"What I was about to ask")
    terminal.wait_for_text("What I was about")
    hang_up(terminal, signal.SIGHUP)
    (draft,) = (tmp_path / "temporary").glob("glmtui-*/draft.txt")
    assert draft.read_text() == "What I was about to ask"
    found = rescued_conversations(tmp_path)
    assert sorted(found) == ["Count", "Second", "Third"]
    for talk in found.values():
        check_counted(talk, 20)
    log = read_log(tmp_path)
    assert len(re.findall(r"could not be saved; it is in \S+\.toml", log)) == 3
    assert "a draft could not be saved" in log
    assert "Second" not in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("gone", [False, True], ids=["terminal", "no terminal"])
def test_the_plain_chat_is_ended_with_a_full_disk(
    glmtui: Start, counter: FakeServer, tmp_path: Path, number: int, gone: bool
) -> None:
    terminal = glmtui("-m", counter.url, *PLAIN, environ=temporary_folder_environ(tmp_path))
    terminal.wait_for_text("/help")
    terminal.press(b"Count\r")
    terminal.wait_for_text(" 20 ")
    block_folders(tmp_path)
    terminal.wait_until(lambda: b"cannot write" in terminal.output)
    if gone:
        hang_up(terminal, number)
    else:
        terminal.process.send_signal(number)
        assert terminal.wait_for_exit() == 128 + number
        assert b"a copy is in" in terminal.output
    check_counted(rescued_conversations(tmp_path)["Count"], 20)
    assert "it is in" in read_log(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_plain_chat_is_ended_in_mid_reply(
    glmtui: Start, counter: FakeServer, tmp_path: Path, number: int
) -> None:
    terminal = glmtui("-m", counter.url, *PLAIN, environ=temporary_folder_environ(tmp_path))
    terminal.wait_for_text("/help")
    terminal.press(b"Count\r")
    terminal.wait_for_text(" 20 ")
    terminal.process.send_signal(number)
    assert terminal.wait_for_exit() == 128 + number
    talk = Store(tmp_path / "data/conversations").load("last")
    check_counted(talk, 20)
    assert talk.path[1].finish_reason == "cancelled"
    assert rescued_conversations(tmp_path) == {}


def test_the_plain_chat_is_ended_while_it_waits_for_a_line(
    glmtui: Start, counter: FakeServer, tmp_path: Path
) -> None:
    terminal = glmtui("-m", counter.url, *PLAIN)
    terminal.wait_for_text("/help")
    terminal.wait_for_text("> ")
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.wait_for_exit() == 128 + signal.SIGTERM


def test_the_plain_chat_whose_terminal_takes_nothing(glmtui: Start, tmp_path: Path) -> None:
    """Nobody reads: the chat waits for its terminal when the signal comes."""

    def flood(exchange: Exchange) -> None:
        if exchange.answer_model_list():
            return
        exchange.start()
        for n in range(100):
            exchange.event(delta(f"{n} ".ljust(8000, "x")))
        exchange.wait_for_disconnect()

    with serving(flood) as server:
        terminal = glmtui("-m", server.url, *PLAIN)
        terminal.wait_for_text("/help")
        terminal.press(b"Count\r")
        time.sleep(1)
        terminal.process.send_signal(signal.SIGTERM)
        terminal.process.wait(20)
    reply = Store(tmp_path / "data/conversations").load("last").path[1]
    assert reply.content.startswith("0 xxx")
    assert len(reply.content) == 800_000
    assert reply.finish_reason == "cancelled"


# ---- an app that does not come to its end

STUCK = """
import asyncio, sys, threading
from glmtui.config import Settings
from glmtui.ui import launch
from glmtui.ui.app import GlmtuiApp

on_ready = GlmtuiApp.on_ready

def stuck(self):
    on_ready(self)
    asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)

GlmtuiApp.on_ready = stuck
launch.EXIT_SECONDS = 1.0
sys.exit(launch.run(Settings(model=sys.argv[1]), []))
"""


@pytest.mark.parametrize("blocked", [False, True], ids=["disk", "no disk"])
def test_a_thread_that_does_not_end(counter: FakeServer, tmp_path: Path, blocked: bool) -> None:
    """The app's loop waits for all of its threads at its end."""
    terminal = Terminal(
        tmp_path, ["-c", STUCK, counter.url], environ=temporary_folder_environ(tmp_path)
    )
    try:
        start_counting_reply(terminal)
        if blocked:
            block_folders(tmp_path)
            terminal.wait_for_text("not saved")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.wait_for_exit() == 128 + signal.SIGTERM
        assert termios.tcgetattr(terminal.slave) == terminal.modes
        if blocked:
            check_counted(rescued_conversations(tmp_path)["Count"], 20)
            assert b"a copy is in" in terminal.output
        else:
            check_counted(Store(tmp_path / "data/conversations").load("last"), 20)
    finally:
        terminal.close()
