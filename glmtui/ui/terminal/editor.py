"""The user's own editor, given the terminal for as long as it takes.

Knows no prompt and no message: a text goes out to it and comes back. The app's loop goes on
meanwhile and draws nothing, so that a reply is still taken in and saved.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from textual.app import SuspendNotSupported

from glmtui.language import _
from glmtui.system.programs import find_program
from glmtui.system.text_encoding import UnknownEncoding, decode_text

FALLBACKS = ("vi", "nano")
Tell = Callable[[str], object]


class EditorHost(Protocol):
    """The app that lends its terminal to the editor."""

    def toast(self, text: str, *, error: bool = False) -> None:
        """Shows a message for a few seconds."""
        ...

    def batch_update(self) -> AbstractContextManager[None]: ...

    def suspend(self) -> AbstractContextManager[None]: ...

    def handle_signals(self, handler: Callable[[int], None]) -> None:
        """Calls `handler` with the number of each signal that would end the program."""
        ...

    def exit_on_signal(self, number: int) -> None: ...


async def edit_text(app: EditorHost, text: str, suffix: str = ".md") -> str | None:
    """`text` as it comes back from $VISUAL or $EDITOR.

    Args:
        suffix: of the file it is edited in, for the editor's colours.

    Returns:
        None where nothing came of it; the user was told why, and what was written is kept.
    """

    def tell(said: str) -> None:
        app.toast(said, error=True)

    if (sheet := _sheet(text, suffix, tell)) is None:
        return None
    if not sheet.wrong:
        try:
            with app.batch_update(), app.suspend():
                sheet.wrong = await _run(app, sheet.argv)
        except SuspendNotSupported:
            sheet.wrong = _("this terminal cannot be lent to it")
    return sheet.text_back(tell)


def edit_text_here(text: str, tell: Tell) -> str | None:
    """As `edit_text`, for a program that has no screen and waits."""
    if (sheet := _sheet(text, ".md", tell)) is None:
        return None
    if not sheet.wrong:
        before = signal.signal(signal.SIGINT, lambda *_signal: None)  # Ctrl+C is the editor's
        try:
            sheet.wrong = _ended(subprocess.call(sheet.argv))
        except OSError as error:
            sheet.wrong = _cause(error)
        finally:
            signal.signal(signal.SIGINT, before)
    return sheet.text_back(tell)


def editor() -> list[str]:
    """The command for the user's editor, or for one that is here; empty where there is none."""
    for variable in ("VISUAL", "EDITOR"):
        if asked := os.environ.get(variable, "").strip():
            try:
                return shlex.split(asked)
            except ValueError:  # an open quote
                return [asked]
    found = filter(None, map(find_program, FALLBACKS))
    return next(([path] for path in found), [])


class _Sheet:
    """A text in a file of its own, and the command that edits it.

    Attributes:
        wrong: what went wrong; "" for nothing.
    """

    def __init__(self, command: list[str], text: str, suffix: str) -> None:
        self._text = text
        self._name = self.wrong = ""
        try:
            handle, self._name = tempfile.mkstemp(suffix=suffix, prefix="glmtui-")
            with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
                file.write(text)
        except OSError as error:
            self.wrong = _cause(error)
        self.argv = [*command, self._name]

    def text_back(self, tell: Tell) -> str | None:
        """The text as it is now; the file goes, unless it is all there is of what was written."""
        edited = self._text
        try:
            if self._name:
                edited = decode_text(Path(self._name).read_bytes())
                edited = edited.replace("\r\n", "\n").replace("\r", "\n")
        except OSError as error:
            self.wrong = self.wrong or _cause(error)
        except UnknownEncoding:
            self.wrong, edited = _("what it wrote is not UTF-8 text"), ""
        if not self._text.endswith("\n"):  # most editors end the last line
            edited = edited.removesuffix("\n")
        changed = edited != self._text
        if self._name and not (self.wrong and changed):
            Path(self._name).unlink(missing_ok=True)
        if not self.wrong:
            return edited
        said = _("{editor} was no use: {why}.").format(editor=self.argv[0], why=self.wrong)
        kept = _("What was written is in {file}.").format(file=self._name) if changed else ""
        tell(f"{said}\n{kept}".strip())
        return None


def _sheet(text: str, suffix: str, tell: Tell) -> _Sheet | None:
    if command := editor():
        return _Sheet(command, text, suffix)
    tell(_("There is no editor: set $VISUAL or $EDITOR to one."))
    return None


async def _run(app: EditorHost, argv: list[str]) -> str:
    """Runs a program on the terminal. Returns what went wrong, "" for nothing.

    Ctrl+C is the program's; a signal that ends us ends it first.
    """
    terminal = sys.__stdout__
    output = None if terminal is None else terminal.fileno()
    try:
        process = await asyncio.create_subprocess_exec(*argv, stdout=output, stderr=output)
    except OSError as error:
        return _cause(error)
    heard: list[int] = []

    def hand_on(number: int) -> None:
        if number != signal.SIGINT:
            heard.append(number)
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                process.send_signal(number)

    app.handle_signals(hand_on)
    code = await process.wait()
    app.handle_signals(app.exit_on_signal)
    for number in heard:
        app.exit_on_signal(number)
    return _ended(code)


def _ended(code: int) -> str:
    return _("it ended with code {code}").format(code=code) if code else ""


def _cause(error: OSError) -> str:
    return error.strerror or str(error)
