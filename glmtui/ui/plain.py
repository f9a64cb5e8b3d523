"""PlainChat: the chat as lines that are only ever added, for screen readers and dumb terminals.

What is said is written once, as it comes; states are words on lines of their own. The session,
the store and the engine are those of the full screen; of its commands those are here that need no
screen.
"""

from __future__ import annotations

import contextlib
import locale
import queue
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from glmtui import commands, config, presets, slash
from glmtui.chat import Conversation, Message
from glmtui.config import Settings
from glmtui.engine.api import Engine, Event
from glmtui.errors import GlmtuiError, StoreError, UsageError
from glmtui.language import _
from glmtui.sanitize import one_line, visible
from glmtui.store import Store
from glmtui.ui import wording
from glmtui.ui.exporting import export
from glmtui.ui.run import Place
from glmtui.ui.saver import Saver
from glmtui.ui.session import Session

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


class PlainChat:
    """The chat, from a line read to the reply written.

    Args:
        read: asks for a line; raises EOFError at the end and KeyboardInterrupt for Ctrl+C.
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
        self._store = store
        self._read = read
        self._lines = Lines(write)
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._saver = Saver(
            store, lambda error: self._calls.put(lambda: self._say(wording.unsaved(error)))
        )
        self._said = ""
        self._over = False
        self.session = Session(
            self._fresh(), self._saver, self._lines, soon=self._calls.put, changed=self._changed
        )
        self.session.keep_turns = settings.keep_turns
        self._engine = start_engine(self.session.hear)
        self.session.attach(self._engine)

    def run(self, conversation: Conversation | None, problems: Sequence[GlmtuiError]) -> None:
        """Talks until the user leaves."""
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
                self._take(self._read())
            except KeyboardInterrupt:
                self._say(_("{key} quits.").format(key="/quit"))
            except EOFError:
                return

    def close(self) -> tuple[bool, tuple[Conversation, ...]]:
        """Ends what runs. Returns whether the engine has ended, and what could not be saved."""
        self.session.close()
        ended = self._engine.close(ENGINE_SECONDS)
        unsaved = self._saver.close(SAVER_SECONDS)
        self._store.close()
        return ended, unsaved

    # ---- a line

    def _take(self, line: str) -> None:
        if not line.strip() or (self.session.model is None and not line.startswith("/")):
            self._say(wording.state(self.session, 0)[0])
        elif slash.looks_like_command(line):
            self._try(lambda: self._command(line))
        else:
            self.session.ask(line)
        self._write_reply()

    def _command(self, line: str) -> None:
        command, argument = slash.parse(line)
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
                while self.session.run is not None or self.session.loading is not None:
                    self.session.drain()
                    self._do_calls(FRAME_SECONDS)
                self._do_calls(0)
                return
            except KeyboardInterrupt:
                if self.session.run is None:  # the model goes on loading
                    return
                self.session.stop()

    def _do_calls(self, seconds: float) -> None:
        with contextlib.suppress(queue.Empty):
            self._calls.get(block=seconds > 0, timeout=seconds or None)()
            while True:
                self._calls.get_nowait()()

    def _changed(self) -> None:
        """Says how the loading of a model goes: that it began, and how it ended."""
        session = self.session
        text = wording.told(session.load_error)
        if not text and (session.model or session.loading):
            text = wording.model_line(session, lambda action: "/model NAME")
        if text and text != self._said:
            self._said = text
            self._say(text)

    def _say(self, text: str) -> None:
        if text:
            self._lines.say(text)

    # ---- what the commands do, by their action in COMMANDS

    def do_help(self) -> None:
        """Names them."""
        for command in commands.COMMANDS:
            if command.slash and hasattr(self, f"do_{command.action}"):
                self._say(command.usage + ": " + _(command.help))

    def do_quit(self) -> None:
        """Leaves."""
        self._over = True

    def do_stop(self) -> None:
        """Nothing runs while a line is read."""
        self._say(wording.state(self.session, 0)[0])

    def do_new(self) -> None:
        """Begins anew."""
        self.session.open(self._fresh())
        self._say(wording.title(self.session.conversation))

    def do_clear(self) -> None:
        """Begins anew; the KV cache's memory goes back."""
        self.do_new()
        self.session.forget()

    def do_fork(self) -> None:
        """Goes on in a copy."""
        self.session.open(self.session.conversation.fork())
        self.session.change()
        self._say(_("You go on in a copy of the conversation."))

    def do_open(self, title: str = "") -> None:
        """Opens the newest conversation whose title or id has these words, or names them all."""
        summaries = self._store.summaries()
        if not title:
            for summary in summaries:
                self._say(f"{summary.id}  {one_line(summary.title)}")
            return
        words = title.lower()
        fit = (s for s in summaries if s.id.startswith(words) or words in s.title.lower())
        found = next(fit, None)
        if found is None:
            raise StoreError(_("There is no conversation {title!r}.").format(title=title))
        self._open(self._store.load(found.id))

    def do_regenerate(self) -> None:
        """Answers the last question again."""
        if not self.session.regenerate():
            self._say(_("There is no question yet to answer."))

    def do_continue_reply(self) -> None:
        """Goes on with the last reply."""
        if not self.session.go_on():
            self._say(_("There is no reply to go on with."))

    def do_model(self, name: str = "") -> None:
        """Loads a model, or names those that are here."""
        from glmtui.engine import catalog

        if name:
            self._use_model(name)
        else:
            self._say("\n".join(model.name for model in catalog.installed()) or _("no model"))

    def do_quant(self, kind: str) -> None:
        """Loads the model again, held in another way."""
        quant = str(config.parse_setting("load.quant", kind))
        self.settings = replace(self.settings, quant=quant)
        self._use_model(self.session.model_name)

    def do_set(self, text: str) -> None:
        """Changes one setting."""
        name, _space, value = text.partition(" ")
        parsed, row = config.parse_setting(name, value), config.find(name)
        if row not in config.SAMPLING_FIELDS:
            raise UsageError(_("{name} cannot be changed while the app runs.").format(name=name))
        values: dict[str, Any] = {row.name: parsed}
        self.session.change(params=replace(self.session.conversation.params, **values))

    def do_system(self, text: str = "") -> None:
        """Says who the model is."""
        self.session.change(system=text or None)

    def do_preset(self, name: str = "") -> None:
        """Takes on a preset, or names them."""
        if name:
            self.session.change(params=presets.find(name))
        else:
            self._say(", ".join(presets.load()[0]))

    def do_keep(self, count: str = "") -> None:
        """Keeps the last turns in the prompt."""
        turns = config.parse_setting("keep_turns", count)
        assert turns is None or isinstance(turns, int)
        self.session.keep_turns = turns

    def do_stats(self) -> None:
        """What the last reply cost."""
        from glmtui.ui import details

        self._say(details.page(self.session.conversation.path, (), 80).plain)

    def do_export(self, file: str = "") -> None:
        """Writes the conversation where no file is yet."""
        path = export(self.session.conversation, Path(file).expanduser() if file else None)
        self._say(_("Written to {path}").format(path=path))

    # ---- conversations and models

    def _fresh(self) -> Conversation:
        return Conversation.new(system=self.settings.system_prompt, params=self.settings.sampling)

    def _open(self, conversation: Conversation) -> None:
        self.session.open(conversation)
        self._say(wording.title(conversation))
        for message in self.session.conversation.path:
            self._say(f"{one_line(message.model) or message.role}: {message.content}")

    def _installed(self) -> str:
        from glmtui.engine import catalog

        here = [model.name for model in catalog.installed()]
        return catalog.DEFAULT_MODEL if catalog.DEFAULT_MODEL in here else "".join(here[:1])

    def _use_model(self, name: str) -> None:
        from glmtui.engine import catalog

        options = self.settings.load_options
        target = catalog.resolve(name, self.settings.server_specs(), options.family)
        self.session.load(target, name, options)
        self._write_reply()


def lines_of_the_terminal() -> tuple[Write, Callable[[], str]]:
    """How to write to the terminal, and how to ask it for a line, with history and editing."""
    # A locale that came over SSH and is not installed here would have readline take the bytes of
    # a Chinese character for keys.
    if "UTF" not in locale.nl_langinfo(locale.CODESET).upper():
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - `input` edits lines and remembers them

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    return write, lambda: input("> ")
