"""PlainTalk: the chat as lines that are only ever added, for screen readers and dumb terminals.

What is said is written once, as it comes; states are words on lines of their own. The session,
the store and the engine are those of the full screen. What the commands do is `plain.PlainChat`'s.
"""

from __future__ import annotations

import contextlib
import locale
import queue
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from glmtui.chat import Conversation, Message
from glmtui.commands import command_parser
from glmtui.config import Settings
from glmtui.engine.api import Engine, Event
from glmtui.errors import GlmtuiError, StoreError, UsageError
from glmtui.language import _
from glmtui.logs import unexpected
from glmtui.sanitize import one_line, visible
from glmtui.store import Store
from glmtui.system import paths
from glmtui.system.terminfo import can_place_cursor
from glmtui.ui.panels import status_text
from glmtui.ui.prompt.history import History
from glmtui.ui.session.drafts import PromptDrafts
from glmtui.ui.session.library import Library
from glmtui.ui.session.reply_state import Place
from glmtui.ui.session.saver import Saver
from glmtui.ui.session.session import Session

FRAME_SECONDS = 0.1
ENGINE_SECONDS, SAVER_SECONDS = 0.3, 5.0

Write = Callable[[str], object]


class Lines:
    """A View that writes what is new and nothing twice.

    Args:
        write: takes text as it comes, line ends and all.
    """

    def __init__(self, write: Write) -> None:
        self._write = write
        self._at_start = True  # of a line

    def say(self, text: str) -> None:
        """Lines of their own; an empty text only ends the line there is."""
        end = "" if self._at_start else "\n"
        self._text(end + (visible(text) + "\n" if text else ""))

    def show(self, messages: Sequence[Message], places: Mapping[str, Place]) -> None:
        """Nothing: what was written stands."""

    def begin(self, message: Message, place: Place | None) -> None:
        """Who speaks; a person's own words are on the screen already."""
        if message.role == "assistant":
            which = "" if place is None else f" {place[0]}/{place[1]}"
            self.say((one_line(message.model) or message.role) + which + ":")

    def append(self, text: str) -> None:
        """The reply goes on."""
        self._text(text)

    def finish(self, message: Message, note: str = "") -> None:
        """How the reply ended."""
        if message.role != "assistant":
            return
        words = [
            _("error: {what}").format(what=message.error) if message.error else "",
            _("stopped") if message.finish_reason == "cancelled" else "",
            note,
        ]
        self.say("\n".join(filter(None, words)))

    def _text(self, text: str) -> None:
        if text:
            self._write(text)
            self._at_start = text.endswith("\n")


class Leaving(BaseException):
    """A signal came that ends the program; no error."""


class LineChat:
    """The chat, from a line read to the reply written.

    Args:
        read: asks for a line; raises EOFError at the end and KeyboardInterrupt for Ctrl+C.

    Attributes:
        signalled: the number of the signal that ended it; 0 for none.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        start_engine: Callable[[Callable[[Event], None]], Engine],
        *,
        write: Write,
        read: Callable[[], str],
    ) -> None:
        self.settings = settings
        self.store = store
        self._read = read
        self._write = write
        self._lines = Lines(self._write_text)
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._saver = Saver(
            store,
            lambda error: self._calls.put(lambda: self._say(status_text.save_error_notice(error))),
            lambda name, why: self._calls.put(lambda: self._goes_on_in_a_copy(name, why)),
        )
        self._said = ""
        self._over = self._at_rest = False
        self.signalled = 0
        self.session = Session(
            self._fresh(), self._saver, self._lines, soon=self._calls.put, changed=self._changed
        )
        self.session.keep_turns = settings.keep_turns
        self._typed = PromptDrafts(paths.state_dir(), self._saver.call)
        self._sent = History(self._typed.sent_before, self._typed.keep_sent)
        self._shelf = Library(self)
        self._engine = start_engine(self.session.hear)
        self.session.attach(self._engine)

    def hear_signals(self) -> None:
        """Has signals that would end the program end `run` instead."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def run(self, conversation: Conversation | None, problems: Sequence[GlmtuiError]) -> None:
        """Talks until the user leaves, or a signal comes; then `signalled` is its number."""
        with contextlib.suppress(Leaving):
            self._talk(conversation, problems)

    def _talk(self, conversation: Conversation | None, problems: Sequence[GlmtuiError]) -> None:
        for problem in problems:
            self._say(str(problem))
        if conversation is not None:
            self._open(conversation)
        if name := self.settings.model or self.session.conversation.model or self._installed():
            self._try(lambda: self._use_model(name))
        else:
            self._say(_("No model yet: {key} picks one").format(key="/model NAME"))
        self._say(_("{key} lists what can be done.").format(key="/help"))
        while not self._over:
            try:
                if (line := self._line()) is None:
                    return
                self._take(line)
            except KeyboardInterrupt:
                self._say(_("{key} quits.").format(key="/quit"))

    def _line(self) -> str | None:
        """What the user types next; None where nothing comes any more."""
        try:
            with self._rest():
                return self._read()
        except (EOFError, OSError):  # the latter of a terminal that has gone
            return None

    def close(self) -> tuple[bool, tuple[Conversation, ...]]:
        """Ends what runs. Returns whether it has ended, and what could not be saved."""
        try:
            self.session.close()
        except Exception as fault:  # of ours; what there is has to be saved all the same
            unexpected(fault)
        ended = self._engine.close(ENGINE_SECONDS)
        unsaved = self._saver.close(SAVER_SECONDS, self._let_go)
        return ended and self._saver.ended, unsaved

    def _let_go(self) -> None:
        self._typed.close()
        self.store.close()

    # ---- signals: they end `run` where it waits, never in the middle of a change

    def _on_signal(self, number: int, _frame: object) -> None:
        if not self.signalled:
            self.signalled = number
            if self._at_rest:
                raise Leaving

    @contextlib.contextmanager
    def _rest(self) -> Iterator[None]:
        """What may be cut short by a signal."""
        self._at_rest = True
        try:
            if self.signalled:
                raise Leaving
            yield
        finally:
            self._at_rest = False

    def _write_text(self, text: str) -> None:
        try:
            with self._rest():
                self._write(text)
        except OSError:  # the terminal, or who reads the pipe, has gone
            self._over = True

    # ---- a line

    def _take(self, line: str) -> None:
        if not line.strip() or (self.session.model is None and not line.startswith("/")):
            self._say(status_text.state_text(self.session, 0)[0])
        elif command_parser.looks_like_command(line):
            self._try(lambda: self._command(line))
        else:
            self._ask(line)
        self._write_reply()

    def _ask(self, question: str, editing: str | None = None) -> None:
        self._sent.add(question)
        self.session.ask(question, editing)

    def _command(self, line: str) -> None:
        command, argument = command_parser.parse(line)
        action = getattr(self, f"do_{command.action}", None)
        if action is None:
            raise UsageError(_("/{word} needs the full screen.").format(word=command.slash))
        action(argument) if command.argument else action()

    def _try(self, call: Callable[[], object]) -> None:
        try:
            call()
        except GlmtuiError as error:
            self._say(str(error))

    def _write_reply(self) -> None:
        """Writes until the reply is there; Ctrl+C stops it."""
        while True:
            try:
                while self._waits_for_the_engine():
                    self.session.drain()
                    self._do_calls(FRAME_SECONDS)
                self._do_calls(0)
                return
            except KeyboardInterrupt:
                if self.session.run is None:  # the model goes on loading
                    return
                self.session.stop()

    def _waits_for_the_engine(self) -> bool:
        works = self.session.run is not None or self.session.loading is not None
        return works and not self._over

    def _do_calls(self, seconds: float) -> None:
        with contextlib.suppress(queue.Empty):
            with self._rest():
                call = self._calls.get(block=seconds > 0, timeout=seconds or None)
            call()
            while True:
                self._calls.get_nowait()()

    def _changed(self) -> None:
        """Says how the loading of a model goes: that it began, and how it ended."""
        session = self.session
        text = status_text.error_text(session.load_error)
        if not text and (session.model or session.loading):
            text = status_text.model_line(session, lambda action: "/model NAME")
        if text and text != self._said:
            self._said = text
            self._say(text)

    def _say(self, text: str) -> None:
        if text:
            self._lines.say(text)

    # ---- conversations and models

    def _goes_on_in_a_copy(self, conversation_id: str, why: StoreError) -> None:
        copy_id = self._saver.moved(conversation_id)
        if copy_id and self.session.conversation.id == conversation_id:
            self.session.conversation = replace(self.session.conversation, id=copy_id)
        self._say(status_text.copy_notice(why))

    def _fresh(self) -> Conversation:
        return Conversation.new(system=self.settings.system_prompt, params=self.settings.sampling)

    def leave_for_deletion(self) -> None:
        """An empty page in place of the conversation in view, which is not saved any more."""
        left = self.session.conversation
        self.session.open(self._fresh())
        self._saver.forget(left.id)
        self._saver.settle(SAVER_SECONDS)

    def _leave(self, for_another: Conversation) -> None:
        left = self.session.conversation
        self.session.open(for_another)
        self._saver.leave(left.id)

    def _open(self, conversation: Conversation) -> None:
        self._leave(conversation)
        self._say(status_text.conversation_title(conversation))
        for message in self.session.conversation.path:
            self._tell(message)

    def _tell(self, message: Message) -> None:
        self._say(f"{one_line(message.model) or message.role}: {message.content}")

    def _installed(self) -> str:
        from glmtui.engine.catalog import resolver

        here = [model.name for model in resolver.installed()]
        return resolver.DEFAULT_MODEL if resolver.DEFAULT_MODEL in here else "".join(here[:1])

    def _use_model(self, name: str) -> None:
        from glmtui.engine.catalog import resolver

        options = self.settings.load_options
        target = resolver.resolve(name, self.settings.server_specs(), options.family)
        self.session.load(target, name, options)
        self._write_reply()


def lines_of_the_terminal() -> tuple[Write, Callable[[], str]]:
    """How to write to the terminal, and how to ask it for a line, with history and editing."""
    # A locale that came over SSH and is not installed here would have readline take the bytes of
    # a Chinese character for keys.
    if "UTF" not in locale.nl_langinfo(locale.CODESET).upper():
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    # readline writes escape sequences as soon as it is imported, whatever stdout is.
    if sys.stdout.isatty() and can_place_cursor():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - `input` edits lines and remembers them

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    return write, lambda: input("> ")
