"""A crash in native code or SIGKILL ends the app: the terminal is restored."""

from __future__ import annotations

import os
import re
import signal
import termios
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from glmtui.ui.terminal.guard import PROGRAM
from support.emulated_terminal import Start, Terminal
from support.fake_server import FakeServer

SIGNALS = (signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL)
# what a terminal must be told again, by what the app told it first; the last one decides
TAKEN_BACK = {
    b"\x1b[?1049h": b"\x1b[?1049l",
    b"\x1b[?25l": b"\x1b[?25h",
    b"\x1b[?1000h": b"\x1b[?1000l",
    b"\x1b[?1003h": b"\x1b[?1003l",
    b"\x1b[?1006h": b"\x1b[?1006l",
    b"\x1b[?1015h": b"\x1b[?1015l",
    b"\x1b[?1004h": b"\x1b[?1004l",
    b"\x1b[?2004h": b"\x1b[?2004l",
    b"\x1b[?7l": b"\x1b[?7h",
    b"\x1b[>25u": b"\x1b[<u",
}


def start_counting_reply(
    glmtui: Start, server: FakeServer, **how: Callable[[], object]
) -> Terminal:
    """The app in the middle of a reply that is partly saved."""
    terminal = glmtui("-m", server.url, **how)
    terminal.wait_for_text("Ask anything")
    terminal.press(b"Count\r")
    terminal.wait_until(lambda: any((terminal.folder / "data/conversations").glob("*.toml")))
    terminal.wait_until(
        lambda: len(terminal.saved_messages()) == 2 and terminal.saved_messages()[1] != ""
    )
    return terminal


def check_terminal_restored(terminal: Terminal) -> None:
    """Waits for the terminal to be as it was before the app."""
    terminal.wait_until(lambda: b"glmtui --continue" in terminal.output)
    assert termios.tcgetattr(terminal.slave) == terminal.modes
    for taken, back in TAKEN_BACK.items():
        assert taken in terminal.output
        assert terminal.output.rindex(back) > terminal.output.rindex(taken)
    alternate, popped = (terminal.output.rindex(end) for end in (b"\x1b[?1049l", b"\x1b[<u"))
    assert popped < alternate < terminal.output.rindex(b"glmtui --continue")


@pytest.mark.parametrize("number", SIGNALS)
def test_killed_in_mid_reply(glmtui: Start, counter: FakeServer, number: signal.Signals) -> None:
    terminal = start_counting_reply(glmtui, counter)
    terminal.process.send_signal(number)
    assert terminal.wait_for_exit() == -number
    check_terminal_restored(terminal)
    last = terminal.output.rpartition(b"\x1b[?1049l")[2].decode()
    if number == signal.SIGKILL:
        assert "glmtui was killed." in last
    else:
        assert re.search(r"glmtui crashed \((Aborted|Segmentation fault)\); ", last)
        log = (terminal.folder / "state/glmtui.log").read_text()
        assert "Fatal Python error" in log
        assert "glmtui/ui/launch.py" in log
    assert terminal.saved_messages()[0] == "Count"
    assert terminal.saved_messages()[1] != ""


def test_its_whole_process_group_killed(glmtui: Start, counter: FakeServer) -> None:
    terminal = start_counting_reply(glmtui, counter)
    os.killpg(terminal.process.pid, signal.SIGKILL)
    terminal.wait_for_exit()
    check_terminal_restored(terminal)


def test_a_terminal_that_was_given_back_is_left_alone(glmtui: Start, counter: FakeServer) -> None:
    terminal = start_counting_reply(glmtui, counter)
    terminal.process.send_signal(signal.SIGTSTP)
    terminal.wait_until(lambda: terminal.output.endswith(b"\x1b[?1004l"))
    assert termios.tcgetattr(terminal.slave) == terminal.modes
    terminal.process.kill()
    before = terminal.output
    terminal.process.wait()
    wait_until_closed(terminal)
    assert terminal.output == before


def test_what_a_shell_has_set_since_stays(glmtui: Start, counter: FakeServer) -> None:
    terminal = start_counting_reply(glmtui, counter)
    guard = guard_pids(terminal)[0]
    os.kill(guard, signal.SIGSTOP)  # the shell is quicker
    terminal.process.kill()
    terminal.process.wait()
    mine = termios.tcgetattr(terminal.slave)
    mine[3] &= ~termios.ECHOE
    termios.tcsetattr(terminal.slave, termios.TCSANOW, mine)
    os.kill(guard, signal.SIGCONT)
    terminal.wait_until(lambda: b"glmtui --continue" in terminal.output)
    assert termios.tcgetattr(terminal.slave) == mine


def test_leaving_ends_the_guard_and_says_nothing(glmtui: Start, counter: FakeServer) -> None:
    terminal = start_counting_reply(glmtui, counter)
    (guard,) = guard_pids(terminal)
    terminal.press(b"\x11")
    assert terminal.wait_for_exit() == 0
    assert not psutil.pid_exists(guard)
    assert b"--continue" not in terminal.output
    assert termios.tcgetattr(terminal.slave) == terminal.modes


def test_an_app_whose_guard_was_killed_goes_on(glmtui: Start, counter: FakeServer) -> None:
    terminal = start_counting_reply(glmtui, counter)
    os.kill(guard_pids(terminal)[0], signal.SIGKILL)
    terminal.press(b"\x11")
    assert terminal.wait_for_exit() == 0
    assert termios.tcgetattr(terminal.slave) == terminal.modes


def guard_pids(terminal: Terminal) -> list[int]:
    """The processes that guard this terminal."""
    children = psutil.Process(terminal.process.pid).children()
    return [child.pid for child in children if str(PROGRAM) in child.cmdline()]


def wait_until_closed(terminal: Terminal) -> None:
    """Reads while anything but this test has the terminal open."""
    name, end = os.ttyname(terminal.slave), time.monotonic() + 10
    while any(has_file_open(process, name) for process in psutil.process_iter()):
        assert time.monotonic() < end
        terminal.read()


def has_file_open(process: psutil.Process, name: str) -> bool:
    if process.pid == os.getpid():
        return False
    try:
        return any(str(fd.readlink()) == name for fd in Path(f"/proc/{process.pid}/fd").iterdir())
    except OSError:
        return False
