"""The user's own editor, given the terminal for as long as it takes.

Knows no prompt and no message: a text goes out to it and comes back.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from textual.app import SuspendNotSupported

from glmtui.language import _

if TYPE_CHECKING:
    from glmtui.ui.app import GlmtuiApp

FALLBACKS = ("vi", "nano")


def edit_text(app: GlmtuiApp, text: str, suffix: str = ".md") -> str | None:
    """`text` as it comes back from $VISUAL or $EDITOR; the app waits meanwhile.

    Args:
        suffix: of the file it is edited in, for the editor's colours.

    Returns:
        None where nothing came of it; the user was told why, and what was written is kept.
    """
    argv = editor()
    if not argv:
        app.tell(_("There is no editor: set $VISUAL or $EDITOR to one."), bad=True)
        return None
    name = ""
    try:
        handle, name = tempfile.mkstemp(suffix=suffix, prefix="glmtui-")
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
        with app.suspend():
            wrong = _run([*argv, name])
        edited = Path(name).read_text("utf-8")
    except SuspendNotSupported:
        wrong, edited = _("this terminal cannot be lent to it"), text
    except OSError as error:
        wrong, edited = error.strerror or str(error), text
    except UnicodeDecodeError:
        wrong, edited = _("what it wrote is not UTF-8 text"), ""
    if not text.endswith("\n"):  # most editors end the last line
        edited = edited.removesuffix("\n")
    if name and (not wrong or edited == text):
        Path(name).unlink(missing_ok=True)
    if not wrong:
        return edited
    said = _("{editor} was no use: {why}.").format(editor=argv[0], why=wrong)
    kept = _("What was written is in {file}.").format(file=name) if edited != text else ""
    app.tell(f"{said}\n{kept}".strip(), bad=True)
    return None


def editor() -> list[str]:
    """The command for the user's editor, or for one that is here; empty where there is none."""
    for variable in ("VISUAL", "EDITOR"):
        if asked := os.environ.get(variable, "").strip():
            try:
                return shlex.split(asked)
            except ValueError:  # an open quote
                return [asked]
    return next(([name] for name in FALLBACKS if shutil.which(name)), [])


def _run(argv: list[str]) -> str:
    """Runs a program on the terminal. Returns what went wrong, "" for nothing."""
    terminal = sys.__stdout__
    output = None if terminal is None else terminal.fileno()
    with _signals_go_to() as running:
        try:
            process = subprocess.Popen(argv, stdout=output, stderr=output)
        except OSError as error:  # Textual's `suspend` lets none pass
            return error.strerror or str(error)
        running.append(process)
        code = process.wait()
    return _("it ended with code {code}").format(code=code) if code else ""


@contextmanager
def _signals_go_to() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Lets Ctrl+C be the editor's; a signal that ends us ends it first.

    The loop must not hear of them: it would leave as soon as the editor is closed.
    """
    running: list[subprocess.Popen[bytes]] = []
    heard: list[int] = []

    def hand_on(number: int, _frame: FrameType | None) -> None:
        heard.append(number)
        for process in running:
            process.send_signal(number)

    def ignore(_number: int, _frame: FrameType | None) -> None: ...

    wakeup = signal.set_wakeup_fd(-1)
    before = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, ignore)
    try:
        yield running
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        for ended_by in heard:
            signal.raise_signal(ended_by)
