"""The real program in a pty: what it leaves behind however it ends, what it writes meanwhile."""

from __future__ import annotations

import os
import pty
import re
import signal
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from glmtui.store import read_file
from glmtui.ui.terminal.driver import InputFilter, TerminalFile
from support.emulated_terminal import Terminal

LEFT_ALTERNATE_SCREEN = b"\x1b[?1049l"


HELD = "engine.pause_after = 1; engine.pieces = ['Once', ' upon']"


def test_ctrl_q_leaves_the_terminal_as_it_was(start: Callable[..., Terminal]) -> None:
    terminal = start()
    terminal.press(b"Hi\r")
    terminal.wait_for_text("Hello there.")
    terminal.press(b"\x11")
    assert terminal.wait_for_exit() == 0
    assert LEFT_ALTERNATE_SCREEN in terminal.output
    assert termios.tcgetattr(terminal.slave) == terminal.modes
    assert terminal.saved_messages() == ["Hi", "Hello there."]


def test_ctrl_q_quits_at_once_in_the_middle_of_a_load(start: Callable[..., Terminal]) -> None:
    # What is inside torch cannot be ended: neither can this.
    terminal = start(
        "engine.load_gate.wait = lambda t: engine._pause.wait(60); engine.load_gate.clear()"
    )
    terminal.wait_for_text("loading 43 %")
    began = time.monotonic()
    terminal.press(b"\x11")
    assert terminal.wait_for_exit() == 0
    assert time.monotonic() - began < 30
    assert LEFT_ALTERNATE_SCREEN in terminal.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_what_there_is_and_restores_the_terminal(
    start: Callable[..., Terminal], number: signal.Signals
) -> None:
    terminal = start(HELD)
    terminal.press(b"Go\r")
    terminal.wait_for_text("Once")
    terminal.process.send_signal(number)
    assert terminal.wait_for_exit() == 128 + number
    assert LEFT_ALTERNATE_SCREEN in terminal.output
    assert termios.tcgetattr(terminal.slave) == terminal.modes
    assert terminal.saved_messages() == ["Go", "Once"]


def test_a_dropped_link_saves_what_there_is(start: Callable[..., Terminal]) -> None:
    terminal = start(HELD)
    terminal.press(b"Go\r")
    terminal.wait_for_text("Once")
    os.close(terminal.slave)
    os.close(terminal.master)
    terminal.process.wait(60)
    terminal.master, terminal.slave = pty.openpty()  # for the fixture to close
    assert terminal.saved_messages() == ["Go", "Once"]


def test_killed_it_has_the_question_on_disk(start: Callable[..., Terminal]) -> None:
    terminal = start(HELD)
    terminal.press("你好\r".encode())
    terminal.wait_for_text("Once")
    terminal.process.kill()
    terminal.process.wait()
    assert terminal.saved_messages()[0] == "你好"


def test_what_libraries_print_goes_to_the_log(start: Callable[..., Terminal]) -> None:
    noise = "import os; os.write(1, b'NOISE one'); os.write(2, b'NOISE two'); print('NOISE three')"
    terminal = start(noise)
    terminal.press(b"Hi\r")
    terminal.wait_for_text("Hello there.")
    terminal.press(b"\x11")
    terminal.wait_for_exit()
    assert b"NOISE" not in terminal.output
    log = (terminal.folder / "state/glmtui.log").read_text()
    assert "NOISE one" in log
    assert "NOISE two" in log


def test_folders_that_cannot_be_written_lose_nothing(
    start: Callable[..., Terminal], tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    terminal = start("", blocked)
    terminal.press(b"Hi\r")
    terminal.wait_for_text("Hello there.")
    terminal.wait_for_text("not saved")
    terminal.press(b"\x11")
    assert terminal.wait_for_exit() == 0
    said = terminal.output.split(LEFT_ALTERNATE_SCREEN)[-1].decode().replace("\r\n", "")
    rescued = re.search(r"a copy is in (\S+\.toml)", said)
    assert rescued, said
    assert [m.content for m in read_file(Path(rescued[1])).path] == ["Hi", "Hello there."]


def test_a_terminal_that_does_not_drain_is_known_to_be_blocked() -> None:
    reader, writer = os.pipe()
    terminal = TerminalFile(writer)
    terminal.write("seen")
    assert os.read(reader, 100) == b"seen"
    assert not terminal.blocked
    full = threading.Thread(target=terminal.write, args=("x" * 1_000_000,))
    full.start()
    while not terminal.blocked:
        full.join(0.001)
    left = 1_000_000
    while left:
        left -= len(os.read(reader, 65536))
    full.join()
    assert not terminal.blocked
    os.close(reader)
    assert terminal.write("nobody reads this") == 17


def test_idle_it_writes_nothing(start: Callable[..., Terminal]) -> None:
    terminal = start()
    terminal.press(b"Hi\r")
    terminal.wait_for_text("Hello there.")
    terminal.wait_for_text("ready")
    while terminal.read(0.5):
        pass
    assert terminal.read(2.5) == b""


def test_alt_enter_breaks_the_line_and_a_paste_never_sends(start: Callable[..., Terminal]) -> None:
    terminal = start()
    terminal.press(b"one\x1b\rtwo\nthree")
    terminal.wait_for_text("three")
    terminal.press(b"\x1b[200~\rfour\x1b\r\nfive\r\x1b[201~")
    terminal.wait_for_text("five")
    terminal.press(b"\r")
    terminal.wait_for_text("Hello there.")
    assert terminal.saved_messages()[0] == "one\ntwo\nthree\nfour␛\nfive"


def test_the_programs_own_faults_are_logged_and_said(start: Callable[..., Terminal]) -> None:
    terminal = start("launch.GlmtuiApp.action_command_palette = lambda self: 1 / 0")
    terminal.wait_for_text("ready")
    terminal.press(b"\x10")
    assert terminal.wait_for_exit() == 1
    assert LEFT_ALTERNATE_SCREEN in terminal.output
    assert b"glmtui.log" in terminal.output.split(LEFT_ALTERNATE_SCREEN)[-1]
    assert "ZeroDivisionError" in (terminal.folder / "state/glmtui.log").read_text()


@pytest.mark.parametrize(
    ("pieces", "seen"),
    [
        (["a\x1b\rb"], "a\x1b[13;3ub"),
        (["\x1b[27;2;13~"], "\x1b[13;2u"),
        (["\x1b"], "\x1b"),
        (["\x1b[200~a\x1b\rb\x1b[201~\x1b\r"], "\x1b[200~a␛\rb\x1b[201~\x1b[13;3u"),
        (["\x1b[200~a", "\x1b", "[31mb\x1b[20", "1~c"], "\x1b[200~a␛[31mb\x1b[201~c"),
        (["x\x1b[2", "00~\x1b\x1b[201~"], "x\x1b[200~␛\x1b[201~"),
        (["\x1b[200~a\x1b[200~b\x1b[201~"], "\x1b[200~a␛[200~b\x1b[201~"),
    ],
)
def test_input_is_unambiguous_wherever_it_is_cut(pieces: list[str], seen: str) -> None:
    tame = InputFilter()
    assert "".join(map(tame.feed, pieces)) == seen


def test_frames_are_whole_where_the_terminal_has_synchronized_output(
    start: Callable[..., Terminal],
) -> None:
    terminal = start()
    terminal.wait_until(lambda: b"\x1b[?2026$p" in terminal.output)  # whether it has
    assert b"\x1b[?2026h" not in terminal.output
    terminal.press(b"\x1b[?2026;2$y")
    terminal.press(b"Hi\r")
    terminal.wait_for_text("Hello there.")
    begun, ended = b"\x1b[?2026h", b"\x1b[?2026l"
    terminal.wait_until(lambda: terminal.output.count(ended) == terminal.output.count(begun) > 0)
