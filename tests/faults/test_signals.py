"""A signal ends the app during a reply: the text is saved and the terminal restored."""

from __future__ import annotations

import os
import pty
import signal
import termios
import time
from pathlib import Path

import pytest

from glmtui.store import Store
from support.emulated_terminal import Start, Terminal
from support.fake_server import FakeServer


def start_counting_reply(glmtui: Start, counter: FakeServer) -> Terminal:
    """An app in the middle of a reply that counts."""
    terminal = glmtui("-m", counter.url)
    terminal.wait_for_text("ready")
    terminal.press(b"Count\r")
    terminal.wait_for_text("tok/s")
    return terminal


def check_saved(folder: Path, least: int) -> None:
    conversations = folder / "data/conversations"
    question, reply = Store(conversations).load("last").path
    assert question.content == "Count"
    words = reply.content.split()
    assert words == [str(n) for n in range(1, len(words) + 1)]
    assert len(words) >= least
    assert reply.finish_reason == "cancelled"  # seen to be cut, by the program itself
    assert [path.name for path in conversations.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_mid_reply(glmtui: Start, counter: FakeServer, number: int) -> None:
    terminal = start_counting_reply(glmtui, counter)
    terminal.wait_for_text(" 20 ")
    terminal.process.send_signal(number)
    assert terminal.wait_for_exit() == 128 + number
    assert b"\x1b[?1049l" in terminal.output
    assert termios.tcgetattr(terminal.slave) == terminal.modes
    check_saved(terminal.folder, 20)


def test_a_link_that_drops_in_mid_reply(glmtui: Start, counter: FakeServer) -> None:
    terminal = start_counting_reply(glmtui, counter)
    terminal.wait_for_text(" 20 ")
    os.close(terminal.slave)
    os.close(terminal.master)
    terminal.process.wait(60)
    terminal.master, terminal.slave = pty.openpty()  # for the fixture to close
    check_saved(terminal.folder, 20)


def test_a_terminal_that_takes_nothing_does_not_keep_the_reply_from_the_disk(
    glmtui: Start, counter: FakeServer
) -> None:
    terminal = start_counting_reply(glmtui, counter)
    store = Store(terminal.folder / "data/conversations")
    size, grown, end = 0, 0, time.monotonic() + 60
    while grown < 4:  # nobody reads the terminal: its buffer fills, and the app's write waits
        assert time.monotonic() < end
        now = len(store.load("last").path[-1].content)
        grown, size = grown + (now > size + 400), max(size, now)
        time.sleep(0.02)
    terminal.press(b"\x11")  # Ctrl+Q
    assert terminal.wait_for_exit() == 0
    check_saved(terminal.folder, 20)
