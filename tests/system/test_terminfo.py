"""Terminals that only print lines receive no escape sequences."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from glmtui.cli.progress import ERASE, LINE_SECONDS, ProgressLine
from glmtui.engine.progress import Progress
from glmtui.system.terminfo import can_move_cursor
from support import TESTS
from support.app_process import PROGRAM
from support.emulated_terminal import Terminal

LOOK = "from glmtui.system.terminfo import can_move_cursor; print(can_move_cursor())"


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def compiled_entry(folder: Path, name: str) -> None:
    """Write a compiled terminfo entry without capabilities, see term(5)."""
    names = f"{name}|takes lines alone\0".encode()
    for directory in (name[0], f"{ord(name[0]):x}"):
        (folder / directory).mkdir(parents=True)
        header = struct.pack("<6h", 0o432, len(names), 0, 0, 0, 0)
        (folder / directory / name).write_bytes(header + names + b"\0" * (len(names) % 2))


@pytest.mark.parametrize("term", [None, "", "dumb", "unknown", "emacs"])
def test_names_of_terminals_that_cannot(term: str | None) -> None:
    assert not can_move_cursor({} if term is None else {"TERM": term})


@pytest.mark.parametrize(
    ("term", "can"), [("paper", False), ("a-terminal-of-next-year", True), ("xterm-256color", True)]
)
def test_terminfo_decides_of_others(tmp_path: Path, term: str, can: bool) -> None:
    compiled_entry(tmp_path, "paper")
    environ = {**os.environ, "TERM": term, "TERMINFO_DIRS": f"{tmp_path}:"}
    process = subprocess.run(
        [sys.executable, "-c", LOOK], env=environ, capture_output=True, text=True
    )
    assert process.stdout == f"{can}\n", process.stderr


@pytest.mark.parametrize("term", ["dumb", "paper", ""])
def test_the_chat_is_plain_lines_there(tmp_path: Path, term: str) -> None:
    compiled_entry(tmp_path / "terminfo", "paper")
    program = PROGRAM.format(tests=str(TESTS), prepare="")
    environ = {"TERM": term, "TERMINFO_DIRS": f"{tmp_path}/terminfo:"}
    terminal = Terminal(tmp_path, ["-c", program], environ=environ)
    try:
        terminal.wait_for_text("> ")
        terminal.press(b"Hi\r")
        terminal.wait_for_text("Hello there.")
        terminal.press(b"/quit\r")
        assert terminal.wait_for_exit() == 0
        assert terminal.saved_messages() == ["Hi", "Hello there."]
        assert b"\x1b" not in terminal.output
    finally:
        terminal.close()


@pytest.mark.parametrize("term", ["xterm", "xterm-256color"])
def test_the_chat_is_plain_lines_in_a_pipe(tmp_path: Path, term: str) -> None:
    output = tmp_path / "output"
    to_file = f"import os\nos.dup2(os.open({str(output)!r}, os.O_WRONLY | os.O_CREAT), 1)\n"
    program = to_file + PROGRAM.format(tests=str(TESTS), prepare="")
    terminal = Terminal(tmp_path, ["-c", program], environ={"TERM": term})
    try:
        terminal.wait_until(lambda: output.exists() and "> " in output.read_text())
        terminal.press(b"Hi\r")
        terminal.wait_until(lambda: "Hello there." in output.read_text())
        terminal.press(b"/quit\r")
        assert terminal.wait_for_exit() == 0
        assert "\x1b" not in output.read_text()
        assert b"\x1b" not in terminal.output
    finally:
        terminal.close()


def test_progress_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("glmtui.cli.progress.time.monotonic", lambda: now[0])
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stderr", err := Tty())
    with ProgressLine() as line:
        line.show("reading the question: 1/2")  # too soon to be shown
        for done in range(1, 6):
            line(Progress("downloading\x1b x", done * 1_000_000, 5_000_000))
            now[0] += LINE_SECONDS / 2
        line(Progress("checking x"))
    lines = err.getvalue().splitlines()
    assert [text.partition(",")[0] for text in lines] == [
        "downloading␛ x: 20 %",
        "downloading␛ x: 60 %",
        "downloading␛ x: 100 %",
        "checking x",
    ]
    assert "\x1b" not in err.getvalue()
    assert "\r" not in err.getvalue()


def test_progress_says_nothing_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", err := io.StringIO())
    with ProgressLine() as line:
        line(Progress("downloading x", 1, 5))
    assert err.getvalue() == ""


def test_progress_is_erased_where_a_cursor_can_be_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", err := Tty())
    with ProgressLine() as line:
        line(Progress("downloading x", 1, 5))
    assert err.getvalue().endswith(ERASE)
