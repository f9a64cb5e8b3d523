"""Edits a text in the user's own editor, which gets the terminal while it runs.

The app's event loop runs on without drawing, so that a reply is still received and saved.
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
Notify = Callable[[str], object]
"""Shows an error to the user."""


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
    """Edits `text` with $VISUAL or $EDITOR.

    Args:
        suffix: of the temporary file, which tells the editor how to highlight.

    Returns:
        The edited text, or None on failure. The user was then told why, and where the edited text
        is if there is any.
    """

    def notify(message: str) -> None:
        app.toast(message, error=True)

    if (file := _create_file(text, suffix, notify)) is None:
        return None
    if not file.error:
        try:
            with app.batch_update(), app.suspend():
                file.error = await _run(app, file.argv)
        except SuspendNotSupported:
            file.error = _("this terminal cannot be suspended")
    return file.read_back(notify)


def edit_text_blocking(text: str, notify: Notify) -> str | None:
    """Like `edit_text`, for a program without a screen. Blocks until the editor ends."""
    if (file := _create_file(text, ".md", notify)) is None:
        return None
    if not file.error:
        before = signal.signal(signal.SIGINT, lambda *_signal: None)  # Ctrl+C is for the editor
        try:
            file.error = _exit_error(subprocess.call(file.argv))
        except OSError as error:
            file.error = _os_error(error)
        finally:
            signal.signal(signal.SIGINT, before)
    return file.read_back(notify)


def editor_command() -> list[str]:
    """$VISUAL, $EDITOR, or an installed fallback, as an argument list; empty if there is none."""
    for variable in ("VISUAL", "EDITOR"):
        if command := os.environ.get(variable, "").strip():
            try:
                return shlex.split(command)
            except ValueError:  # an unbalanced quote
                return [command]
    found = filter(None, map(find_program, FALLBACKS))
    return next(([path] for path in found), [])


class _EditedFile:
    """A temporary file with the text, and the command that edits it.

    Attributes:
        error: why editing failed; "" if it did not.
    """

    def __init__(self, command: list[str], text: str, suffix: str) -> None:
        self._text = text
        self._name = self.error = ""
        try:
            handle, self._name = tempfile.mkstemp(suffix=suffix, prefix="glmtui-")
            with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
                file.write(text)
        except OSError as error:
            self.error = _os_error(error)
        self.argv = [*command, self._name]

    def read_back(self, notify: Notify) -> str | None:
        """Returns the edited text, or None on failure, of which the user is notified.

        Deletes the file, unless it holds changes that could not be returned.
        """
        edited = self._text
        try:
            if self._name:
                edited = decode_text(Path(self._name).read_bytes())
                edited = edited.replace("\r\n", "\n").replace("\r", "\n")
        except OSError as error:
            self.error = self.error or _os_error(error)
        except UnknownEncoding:
            self.error, edited = _("the edited file is not UTF-8 text"), ""
        if not self._text.endswith("\n"):  # most editors add a newline at the end
            edited = edited.removesuffix("\n")
        changed = edited != self._text
        if self._name and not (self.error and changed):
            Path(self._name).unlink(missing_ok=True)
        if not self.error:
            return edited
        message = _("The editor {editor} failed: {why}.")
        message = message.format(editor=self.argv[0], why=self.error)
        location = _("The edited text is in {file}.").format(file=self._name) if changed else ""
        notify(f"{message}\n{location}".strip())
        return None


def _create_file(text: str, suffix: str, notify: Notify) -> _EditedFile | None:
    if command := editor_command():
        return _EditedFile(command, text, suffix)
    notify(_("No editor found. Set $VISUAL or $EDITOR."))
    return None


async def _run(app: EditorHost, argv: list[str]) -> str:
    """Runs a program on the terminal. Returns an error message, or "" on success.

    Ctrl+C is left to the program. Other signals that end the app end the program first.
    """
    terminal = sys.__stdout__
    output = None if terminal is None else terminal.fileno()
    try:
        process = await asyncio.create_subprocess_exec(*argv, stdout=output, stderr=output)
    except OSError as error:
        return _os_error(error)
    received: list[int] = []

    def forward(number: int) -> None:
        if number != signal.SIGINT:
            received.append(number)
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                process.send_signal(number)

    app.handle_signals(forward)
    code = await process.wait()
    app.handle_signals(app.exit_on_signal)
    for number in received:
        app.exit_on_signal(number)
    return _exit_error(code)


def _exit_error(code: int) -> str:
    return _("exit code {code}").format(code=code) if code else ""


def _os_error(error: OSError) -> str:
    return error.strerror or str(error)
