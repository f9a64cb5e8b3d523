"""PlainChat: the chat as plain lines, for screen readers and terminals that cannot place a cursor.

The workspace is that of the chat screen; what the commands do is in `plain_commands`.
"""

from __future__ import annotations

import contextlib
import locale
import queue
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from glmtui.chat import Conversation, Message
from glmtui.commands import command_parser
from glmtui.config import Settings
from glmtui.engine.api import ToolCall
from glmtui.errors import GlmtuiError, StoreError, UsageError
from glmtui.language import _
from glmtui.sanitize import sanitize_line
from glmtui.store import Store
from glmtui.system.terminfo import can_move_cursor
from glmtui.ui.panels import status_text
from glmtui.ui.plain.line_writer import LineWriter
from glmtui.ui.plain.plain_commands import PlainCommands
from glmtui.ui.prompt.history import History
from glmtui.ui.session.workspace import EngineFactory, Workspace

FRAME_SECONDS = 0.1
"""Time between writes of a reply's text."""

Write = Callable[[str], object]


class ExitSignal(BaseException):
    """Raised by a signal that ends the program."""


class PlainChat:
    """Reads lines, writes replies. It is the front end of a `Workspace`.

    Args:
        write: takes text with its line ends.
        read: asks for a line; raises EOFError at the end and KeyboardInterrupt for Ctrl+C.

    Attributes:
        signal_number: the signal that ended the chat; 0 for none.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        engine_factory: EngineFactory,
        *,
        write: Write,
        read: Callable[[], str],
    ) -> None:
        self.signal_number = 0
        self._read = read
        self._write = write
        self._writer = LineWriter(self.write_text)
        self._callbacks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._model_line = ""
        self._ended = self._interruptible = False
        self.workspace = Workspace(settings, store, engine_factory, self._writer, self)
        self._session = self.workspace.session
        drafts = self.workspace.drafts
        self.history = History(drafts.sent_questions, drafts.add_sent)
        self._commands = PlainCommands(self)
        self.workspace.start_engine()

    def run(self, conversation: Conversation | None, problems: Sequence[GlmtuiError]) -> None:
        """Chats until the user quits or a signal comes."""
        with contextlib.suppress(ExitSignal):
            self._run(conversation, problems)

    def _run(self, conversation: Conversation | None, problems: Sequence[GlmtuiError]) -> None:
        for problem in problems:
            self.write_line(str(problem))
        if conversation is not None:
            self.open_conversation(conversation)
        if name := self.workspace.first_model():
            self._try(lambda: self.load_model(name))
        else:
            self.write_line(_("No model yet: {key} picks one").format(key="/model NAME"))
        self.write_line(_("{key} lists the commands.").format(key="/help"))
        while not self._ended:
            try:
                if (line := self._read_line()) is None:
                    return
                self._handle_line(line)
            except KeyboardInterrupt:
                self.write_line(_("Nothing to stop or clear. {key} quits.").format(key="/quit"))

    def quit(self) -> None:
        """Ends `run` after the present line."""
        self._ended = True

    def close(self) -> tuple[bool, tuple[Conversation, ...]]:
        return self.workspace.close()

    # ---- signals end `run` while it waits, never in the middle of a change

    def handle_signals(self) -> None:
        """Makes the signals that would end the program end `run` instead."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: object) -> None:
        if not self.signal_number:
            self.signal_number = number
            if self._interruptible:
                raise ExitSignal

    @contextlib.contextmanager
    def _interruptible_wait(self) -> Iterator[None]:
        self._interruptible = True
        try:
            if self.signal_number:
                raise ExitSignal
            yield
        finally:
            self._interruptible = False

    # ---- lines

    def write_line(self, text: str) -> None:
        """Writes a text on lines of its own; nothing if it is empty."""
        if text:
            self._writer.write_line(text)

    def write_text(self, text: str) -> None:
        """Writes text as it is."""
        try:
            with self._interruptible_wait():
                self._write(text)
        except OSError:  # the terminal, or the reader of a pipe, is gone
            self._ended = True

    def _read_line(self) -> str | None:
        """The next line; None at the end."""
        try:
            with self._interruptible_wait():
                return self._read()
        except (EOFError, OSError):  # OSError: the terminal is gone
            return None

    def _handle_line(self, line: str) -> None:
        if not line.strip() or (self._session.model is None and not line.startswith("/")):
            self.write_line(status_text.state_text(self._session, 0)[0])
        elif command_parser.looks_like_command(line):
            self._try(lambda: self._run_command(line))
        else:
            self.ask(line)
        self._write_reply()

    def _run_command(self, line: str) -> None:
        command, argument = command_parser.parse(line)
        action = self._commands.actions.get(command.action)
        if action is None:
            raise UsageError(_("/{word} needs the full screen.").format(word=command.slash))
        self.write_line((action(argument) if command.argument else action()) or "")

    def _try(self, call: Callable[[], object]) -> None:
        try:
            call()
        except GlmtuiError as error:
            self.write_line(str(error))

    # ---- the reply

    def ask(self, question: str, editing: str | None = None) -> None:
        """Sends a question, or replaces the one with the id `editing`."""
        self.history.add(question)
        self._session.ask(question, editing)

    def load_model(self, name: str) -> None:
        """Loads a model and waits for it. Raises GlmtuiError."""
        self.workspace.load_model(name)
        self._write_reply()

    def _write_reply(self) -> None:
        """Writes the reply until its end; Ctrl+C stops it."""
        while True:
            try:
                while self._is_engine_busy():
                    self._session.drain()
                    self._run_callbacks(FRAME_SECONDS)
                self._run_callbacks(0)
                return
            except KeyboardInterrupt:
                if self._session.reply is None:  # the model continues to load
                    return
                self._session.stop()

    def _is_engine_busy(self) -> bool:
        busy = self._session.reply is not None or self._session.loading is not None
        return busy and not self._ended

    def _run_callbacks(self, seconds: float) -> None:
        """Runs the callbacks of other threads; waits so many seconds for the first."""
        with contextlib.suppress(queue.Empty):
            with self._interruptible_wait():
                callback = self._callbacks.get(block=seconds > 0, timeout=seconds or None)
            callback()
            while True:
                self._callbacks.get_nowait()()

    # ---- the conversation

    def open_conversation(self, conversation: Conversation) -> None:
        """Opens a conversation and writes its title and messages."""
        self.workspace.open(conversation)
        self.write_line(status_text.conversation_title(conversation))
        for message in self._session.conversation.path:
            self.write_message(message)

    def write_message(self, message: Message) -> None:
        self.write_line(f"{sanitize_line(message.model) or message.role}: {message.content}")

    # ---- the front end of the workspace

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._callbacks.put(callback)

    def on_session_change(self) -> None:
        """Writes which model is loading or loaded, when that has changed."""
        session = self.workspace.session
        text = status_text.error_text(session.load_error)
        if not text and (session.model or session.loading):
            text = status_text.model_line(session, lambda action: "/model NAME")
        if text and text != self._model_line:
            self._model_line = text
            self.write_line(text)

    def on_save_error(self, error: StoreError | None) -> None:
        self.write_line(status_text.save_error_notice(error))

    def on_copy(self, reason: StoreError) -> None:
        self.write_line(status_text.copy_notice(reason))

    def discard_conversation(self) -> None:
        self.workspace.discard_conversation()

    def tool_declarations(self) -> Sequence[Mapping[str, Any]]:
        return ()  # there is no dialog to confirm a call

    def on_tool_call(self, call: ToolCall) -> None:
        pass


def terminal_lines() -> tuple[Write, Callable[[], str]]:
    """Functions that write to the terminal and ask it for a line, with history and editing."""
    # If a locale that came over SSH is not installed here, readline would take the bytes of a
    # Chinese character for keys.
    if "UTF" not in locale.nl_langinfo(locale.CODESET).upper():
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    # readline writes escape sequences as soon as it is imported, whatever stdout is.
    if sys.stdout.isatty() and can_move_cursor():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - `input` uses it to edit lines

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    return write, lambda: input("> ")
