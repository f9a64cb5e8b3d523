"""Copies text to the clipboard of the user, also over SSH.

With a local display a clipboard tool is used. Over SSH the terminal is asked to set its clipboard
(OSC 52), through tmux or GNU screen if there is one. If both are impossible, the text is written
to a file.
"""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from glmtui.language import _
from glmtui.system import paths
from glmtui.system.durable_files import encode_utf8, make_private_folder, replace_file
from glmtui.system.programs import SAFE_FOLDER, find_program

MAX_OSC52_BYTES = 74_994
"""Largest text, in bytes of UTF-8, that is sent by OSC 52. xterm and tmux ignore what follows after
100,000 bytes of a sequence; base64 makes 4 bytes out of 3."""

TOOL_SECONDS = 2.0
"""Timeout of a clipboard tool; some stay in the foreground when the display does not answer."""

_SCREEN_CHUNK = 250  # bytes; GNU screen discards longer DCS strings

_TERMS_WITHOUT_CLIPBOARD = ("dumb", "linux", "vt")  # prefixes of $TERM


class CopyResult(NamedTuple):
    """The outcome of a copy.

    Attributes:
        message: tells the user where the text is now.
        failed: whether it is neither in a clipboard nor in a file.
    """

    message: str
    failed: bool = False


def copy_to_clipboard(
    text: str, write: Callable[[str], object], environ: Mapping[str, str]
) -> CopyResult:
    """Copies `text` in the best way that is possible here.

    Args:
        write: sends a control sequence to the terminal.
        environ: the process environment; it tells whether SSH, tmux or screen are in use.
    """
    copied = _("Copied {count:,} characters.").format(count=len(text))
    if not is_remote(environ):
        for argv in clipboard_tools(environ):
            if _run_with_input(argv, text):
                return CopyResult(copied)
    if environ.get("TERM", "dumb").startswith(_TERMS_WITHOUT_CLIPBOARD):
        return _save_to_file(text, _("This terminal has no clipboard."))
    size = len(text.encode("utf-8", "replace"))
    if size > MAX_OSC52_BYTES:
        reason = _("The text has {size:,} bytes; terminals accept at most {limit:,}.")
        return _save_to_file(text, reason.format(size=size, limit=MAX_OSC52_BYTES))
    if "TMUX" in environ:
        # Also works where tmux's allow-passthrough is off.
        _run_with_input(("tmux", "load-buffer", "-w", "-"), text)
    write(clipboard_sequence(text, environ))
    return CopyResult(copied)


def clipboard_sequence(text: str, environ: Mapping[str, str]) -> str:
    """OSC 52 for `text`, wrapped for the multiplexer that is in use, if any."""
    if "TMUX" in environ:
        return wrap_for_tmux(osc52(text))
    if "STY" in environ:
        return wrap_for_screen(osc52(text))
    return osc52(text)


def osc52(text: str) -> str:
    """The control sequence that sets a terminal's clipboard."""
    encoded = base64.b64encode(text.encode("utf-8", "replace")).decode("ascii")
    return f"\x1b]52;c;{encoded}\x07"


def wrap_for_tmux(control: str) -> str:
    """`control` as a tmux passthrough sequence."""
    doubled = control.replace("\x1b", "\x1b\x1b")
    return f"\x1bPtmux;{doubled}\x1b\\"


def wrap_for_screen(control: str) -> str:
    """`control` as GNU screen passthrough sequences, each short enough for it."""
    starts = range(0, len(control), _SCREEN_CHUNK)
    return "".join(f"\x1bP{control[at : at + _SCREEN_CHUNK]}\x1b\\" for at in starts)


def is_remote(environ: Mapping[str, str]) -> bool:
    """Whether the program runs in an SSH session."""
    return "SSH_CONNECTION" in environ or "SSH_TTY" in environ


def clipboard_tools(environ: Mapping[str, str]) -> list[tuple[str, ...]]:
    """The installed programs that set the clipboard of the local display, best first."""
    candidates: list[tuple[str, ...]] = []
    if environ.get("WAYLAND_DISPLAY"):
        candidates.append(("wl-copy",))
    if environ.get("DISPLAY"):
        candidates += [("xclip", "-selection", "clipboard"), ("xsel", "--clipboard", "--input")]
    if sys.platform == "darwin":
        candidates.append(("pbcopy",))
    return [argv for argv in candidates if find_program(argv[0], environ.get("PATH"))]


def _run_with_input(argv: Sequence[str], text: str) -> bool:
    """Runs a program with `text` on its stdin. Returns whether it succeeded.

    Clipboard tools may stay in the background, so they get no pipe whose end would be waited for.
    """
    try:
        done = subprocess.run(
            [find_program(argv[0]) or "", *argv[1:]],
            input=text.encode("utf-8", "replace"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=TOOL_SECONDS,
            check=False,
            cwd=SAFE_FOLDER,  # a tool in the background must not keep a file system busy
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _save_to_file(text: str, reason: str) -> CopyResult:
    path = paths.state_dir() / "copied.txt"
    try:
        make_private_folder(path.parent)
        replace_file(path, encode_utf8(text))
    except OSError as error:
        failed = _("{why}\nCould not write {path}: {error}.")
        return CopyResult(failed.format(why=reason, path=path, error=error.strerror), failed=True)
    return CopyResult(_("{why}\nSaved to {path} instead.").format(why=reason, path=path))
