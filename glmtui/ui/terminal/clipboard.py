"""Text to the clipboard of the person at the keyboard, wherever the program runs.

With a display at hand a tool puts it there; over SSH the terminal is asked to (OSC 52), through
tmux or GNU screen where one is in between. What a terminal would not take goes to a file.
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

LIMIT = 74_994
"""Bytes of text that terminals take in one OSC 52: xterm and tmux stop at 100,000 with the rest."""

TOOL_SECONDS = 2.0
_SCREEN_CHUNK = 250  # GNU screen drops a longer string

_DEAF = ("dumb", "linux", "vt")  # kinds of terminal that have no clipboard


class Copied(NamedTuple):
    """What came of it, in words for the user.

    Attributes:
        failed: whether the text is nowhere.
    """

    words: str
    failed: bool = False


def copy(text: str, write: Callable[[str], object], environ: Mapping[str, str]) -> Copied:
    """Copies `text` by the best way there is.

    Args:
        write: sends a control sequence to the terminal.
        environ: the environment, which tells what lies between the program and the user.
    """
    size = len(text.encode("utf-8", "replace"))
    if not is_remote(environ):
        for argv in tools(environ):
            if _fed(argv, text):
                return Copied(_("Copied {count:,} characters.").format(count=len(text)))
    if environ.get("TERM", "dumb").startswith(_DEAF):
        return _to_file(text, _("This terminal has no clipboard."))
    if size > LIMIT:
        why = _("It is {size:,} bytes; a terminal's clipboard takes {limit:,}.")
        return _to_file(text, why.format(size=size, limit=LIMIT))
    if "TMUX" in environ:
        _fed(("tmux", "load-buffer", "-w", "-"), text)  # works without allow-passthrough
    write(sequence(text, environ))
    return Copied(
        _("Sent {count:,} characters to the terminal's clipboard.").format(count=len(text))
    )


def sequence(text: str, environ: Mapping[str, str]) -> str:
    """What asks the user's terminal to take `text`, wrapped for what is in between."""
    if "TMUX" in environ:
        return in_tmux(osc52(text))
    if "STY" in environ:
        return in_screen(osc52(text))
    return osc52(text)


def osc52(text: str) -> str:
    """The control sequence by which a terminal takes `text` for its clipboard."""
    encoded = base64.b64encode(text.encode("utf-8", "replace")).decode("ascii")
    return f"\x1b]52;c;{encoded}\x07"


def in_tmux(control: str) -> str:
    """`control` as tmux hands it on to the terminal it runs in."""
    doubled = control.replace("\x1b", "\x1b\x1b")
    return f"\x1bPtmux;{doubled}\x1b\\"


def in_screen(control: str) -> str:
    """`control` as GNU screen hands it on, in pieces that it takes."""
    starts = range(0, len(control), _SCREEN_CHUNK)
    return "".join(f"\x1bP{control[at : at + _SCREEN_CHUNK]}\x1b\\" for at in starts)


def is_remote(environ: Mapping[str, str]) -> bool:
    """Whether the user is at the other end of an SSH connection."""
    return "SSH_CONNECTION" in environ or "SSH_TTY" in environ


def tools(environ: Mapping[str, str]) -> list[tuple[str, ...]]:
    """The programs here that fill the clipboard of the display at hand, the best first."""
    known: list[tuple[str, ...]] = []
    if environ.get("WAYLAND_DISPLAY"):
        known.append(("wl-copy",))
    if environ.get("DISPLAY"):
        known += [("xclip", "-selection", "clipboard"), ("xsel", "--clipboard", "--input")]
    if sys.platform == "darwin":
        known.append(("pbcopy",))
    return [argv for argv in known if find_program(argv[0], environ.get("PATH"))]


def _fed(argv: Sequence[str], text: str) -> bool:
    """Whether a program took `text`. It may stay in the background, so no pipe is left to it."""
    try:
        done = subprocess.run(
            [find_program(argv[0]) or "", *argv[1:]],
            input=text.encode("utf-8", "replace"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=TOOL_SECONDS,
            check=False,
            cwd=SAFE_FOLDER,  # it may stay for long
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _to_file(text: str, why: str) -> Copied:
    path = paths.state_dir() / "copied.txt"
    try:
        make_private_folder(path.parent)
        replace_file(path, encode_utf8(text))
    except OSError as error:
        failed = _("{why}\n{path} cannot be written: {error}.")
        return Copied(failed.format(why=why, path=path, error=error.strerror), failed=True)
    return Copied(_("{why}\nThe text is in {path}.").format(why=why, path=path))
