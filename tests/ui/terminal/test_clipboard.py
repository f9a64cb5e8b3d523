"""The clipboard: tools, OSC 52, multiplexers, and the file for large texts."""

from __future__ import annotations

import base64
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glmtui.ui.terminal import clipboard
from glmtui.ui.terminal.clipboard import (
    MAX_OSC52_BYTES,
    clipboard_sequence,
    clipboard_tools,
    copy_to_clipboard,
    osc52,
    wrap_for_screen,
    wrap_for_tmux,
)

SSH = {"SSH_CONNECTION": "10.0.0.1 5 10.0.0.2 22", "TERM": "xterm-256color"}


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLMTUI_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def test_sequences_are_exact() -> None:
    assert osc52("hi") == "\x1b]52;c;aGk=\x07"
    assert osc52("模型\n") == "\x1b]52;c;5qih5Z6LCg==\x07"
    assert wrap_for_tmux(osc52("hi")) == "\x1bPtmux;\x1b\x1b]52;c;aGk=\x07\x1b\\"
    assert wrap_for_screen(osc52("hi")) == "\x1bP\x1b]52;c;aGk=\x07\x1b\\"


def test_screen_gets_short_pieces_that_add_up() -> None:
    whole = osc52("x" * 1000)
    pieces = wrap_for_screen(whole).split("\x1b\\")
    assert pieces.pop() == ""
    assert len(pieces) > 4
    assert all(piece.startswith("\x1bP") and len(piece) <= 252 for piece in pieces)
    assert "".join(piece.removeprefix("\x1bP") for piece in pieces) == whole


@pytest.mark.parametrize(
    ("between", "wrapped"),
    [
        ({}, osc52("a")),
        ({"TMUX": "/tmp/socket,1,0"}, wrap_for_tmux(osc52("a"))),
        ({"STY": "1.pts"}, wrap_for_screen(osc52("a"))),
        ({"TMUX": "x", "STY": "1.pts"}, wrap_for_tmux(osc52("a"))),
    ],
)
def test_the_sequence_is_wrapped_for_the_multiplexer(between: dict[str, str], wrapped: str) -> None:
    assert clipboard_sequence("a", SSH | between) == wrapped


def tool(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_only_tools_with_a_display_are_used(tmp_path: Path) -> None:
    for name in ("wl-copy", "xclip", "xsel"):
        tool(tmp_path / "bin", name, "exit 0")
    here = {"PATH": str(tmp_path / "bin")}
    assert [t[0] for t in clipboard_tools(here | {"WAYLAND_DISPLAY": "w", "DISPLAY": ":0"})] == [
        "wl-copy",
        "xclip",
        "xsel",
    ]
    assert [t[0] for t in clipboard_tools(here | {"DISPLAY": ":0"})] == ["xclip", "xsel"]
    if sys.platform != "darwin":
        assert clipboard_tools(here) == []
    assert clipboard_tools({"PATH": str(tmp_path), "DISPLAY": ":0"}) == []


def test_a_local_tool_gets_the_text_and_the_terminal_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    took = tmp_path / "took"
    tool(tmp_path / "bin", "wl-copy", "exit 1")  # one that fails gives way to the next
    tool(tmp_path / "bin", "xclip", f"cat > {took}")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    local = {"PATH": path, "WAYLAND_DISPLAY": "w", "DISPLAY": ":0", "TERM": "xterm"}
    sent: list[str] = []
    assert copy_to_clipboard("你好", sent.append, local).message == "Copied 2 characters."
    assert took.read_text("utf-8") == "你好"
    assert sent == []

    took.unlink()
    copy_to_clipboard(
        "over SSH", sent.append, local | SSH
    )  # X forwarded: the user's display is elsewhere
    assert sent == [osc52("over SSH")]
    assert not took.exists()


def test_without_a_tool_osc52_is_used() -> None:
    sent: list[str] = []
    copied = copy_to_clipboard("a" * MAX_OSC52_BYTES, sent.append, {"TERM": "xterm", "PATH": ""})
    assert not copied.failed
    assert copied.message == "Copied 74,994 characters."
    assert sent == [osc52("a" * MAX_OSC52_BYTES)]
    assert len(base64.b64encode(b"a" * MAX_OSC52_BYTES)) + 8 == 100_000


def test_a_too_large_text_goes_to_a_private_file(state: Path) -> None:
    text = "型" * (MAX_OSC52_BYTES // 3 + 1)
    for _ in range(2):  # and over the last one
        copied = copy_to_clipboard(text, pytest.fail, SSH)
    file = state / "copied.txt"
    assert copied.message.split("\n") == [
        "The text has 74,997 bytes; terminals accept at most 74,994.",
        f"Saved to {file} instead.",
    ]
    assert file.read_text("utf-8") == text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_terminal_without_a_clipboard_gets_a_file(state: Path) -> None:
    assert "no clipboard" in copy_to_clipboard("a", pytest.fail, SSH | {"TERM": "linux"}).message
    assert (state / "copied.txt").read_text() == "a"


def test_a_failed_copy_is_reported(state: Path) -> None:
    state.write_text("a file in the way")
    copied = copy_to_clipboard("a", pytest.fail, {"TERM": "dumb", "PATH": ""})
    assert copied.failed
    assert str(state) in copied.message


def test_a_tool_that_hangs_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clipboard, "TOOL_SECONDS", 0.1)
    tool(tmp_path / "bin", "xclip", "exec sleep 60")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    sent: list[str] = []
    copy_to_clipboard("a", sent.append, {"PATH": path, "DISPLAY": ":0", "TERM": "xterm"})
    assert sent == [osc52("a")]


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
def test_tmux_gets_the_text_in_its_buffer(tmp_path: Path) -> None:
    program = (
        "import os, sys; from glmtui.ui.terminal import clipboard; clipboard.TOOL_SECONDS = 60;"
        "clipboard.copy_to_clipboard('for tmux', sys.stdout.write, os.environ)"
    )
    socket = tmp_path / "tmux"
    command = ["tmux", "-S", str(socket), "-f", "/dev/null"]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environ["SSH_TTY"] = "/dev/pts/0"  # else a tool would take it where there is a display
    environ.pop("TMUX", None)
    try:
        subprocess.run(
            [*command, "new-session", "-d", f'{sys.executable} -c "{program}"; sleep 60'],
            check=True,
            env=environ,
            timeout=20,
        )
        until = time.monotonic() + 60
        shown = b""
        while shown != b"for tmux":
            assert time.monotonic() < until
            time.sleep(0.05)
            shown = subprocess.run(
                [*command, "show-buffer"], capture_output=True, check=False, timeout=20
            ).stdout
    finally:
        subprocess.run([*command, "kill-server"], capture_output=True, check=False, timeout=20)
