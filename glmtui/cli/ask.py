"""``glmtui ask``: one question, one reply on stdout, no screen.

Knows streams and how a reply is printed; the model behind it is any `api.ChatModel`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
from typing import Any

from glmtui.chat import Message
from glmtui.cli.progress import ProgressLine
from glmtui.config import Settings
from glmtui.engine.api import ChatModel, Reply
from glmtui.engine.catalog import resolver
from glmtui.engine.catalog.registry import DEFAULT_MODEL
from glmtui.engine.open_model import open_model
from glmtui.engine.progress import ProgressHook
from glmtui.errors import GlmtuiError, UsageError
from glmtui.language import _
from glmtui.sanitize import StreamSanitizer
from glmtui.system.text_encoding import UnknownEncoding, decode_text


def ask(question: str, settings: Settings, *, as_json: bool = False, strip: bool = False) -> int:
    """Prints the model's reply to `question` as it comes; returns the exit code.

    Args:
        as_json: print one JSON object at the end instead.
        strip: make control characters visible even where stdout is no terminal.

    Raises:
        GlmtuiError: after printing what there was of the reply.
    """
    system = settings.system_prompt
    messages = [] if system is None else [Message("system", system)]
    messages.append(Message("user", question))
    with (
        ProgressLine() as line,
        InterruptHandler(line) as ctrl_c,
        contextlib.closing(open_chat_model(settings, line)) as model,
    ):
        failure: GlmtuiError | None = None
        printer = _Printer(line, clean=strip or sys.stdout.isatty())
        stream = model.stream(
            messages,
            settings.sampling,
            cancelled=ctrl_c.watched,
            on_prefill=lambda read: line.show(f"reading the question: {read.done}/{read.total}"),
        )
        try:
            for piece in stream:
                if not as_json:
                    printer.add(piece)
        except GlmtuiError as error:
            failure = error
        if as_json:
            printer.add(reply_as_json(model.info.name, stream.result, failure))
        printer.end()
        if failure:
            raise failure
        return 130 if ctrl_c.pressed else 0


def open_chat_model(settings: Settings, on_progress: ProgressHook) -> ChatModel:
    """The model that `settings` name, or the default one, ready to answer. Raises GlmtuiError."""
    options = settings.load_options
    name = settings.model or DEFAULT_MODEL
    target = resolver.resolve(name, settings.server_specs(), options.family)
    return open_model(target, options, on_progress)


class InterruptHandler:
    """What Ctrl+C does while this is entered: end the reply, or at once the process.

    Python's own way, an exception wherever the program happens to be, is not for torch: from
    within its import or its C++ parts the process aborts, or fails for another reason.
    """

    def __init__(self, line: ProgressLine) -> None:
        self.pressed = False
        self._line = line
        self._watched = False
        self._before: Any = None

    def watched(self) -> bool:
        """Whether the reply should end. Asking shows that somebody is there to end it."""
        self._watched = True
        return self.pressed

    def __enter__(self) -> InterruptHandler:
        # A shell's background job ignores Ctrl+C, and goes on doing so.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _press(self, number: int, frame: object) -> None:
        if self.pressed or not self._watched:
            self._line.erase()
            os._exit(130)
        self.pressed = True


def reply_as_json(model: str, reply: Reply, failure: GlmtuiError | None = None) -> str:
    """A reply as one JSON object: text, ids, finish_reason, stats, model."""
    found: dict[str, object] = {
        "text": reply.text,
        "ids": list(reply.ids),
        "finish_reason": reply.finish_reason,
        "stats": dataclasses.asdict(reply.stats)
        | {"prefill_rate": reply.stats.prefill_rate, "decode_rate": reply.stats.decode_rate},
        "model": model,
    }
    if failure:
        found |= {"finish_reason": "error", "error": failure.message}
    return json.dumps(found, ensure_ascii=False)


def read_question(words: list[str]) -> str:
    """The question on the command line, with what is piped in below it.

    Raises:
        UsageError: there is neither, or it is not text.
    """
    # Bytes of arguments that are not text in the locale's encoding come as lone surrogates.
    typed = _decode(" ".join(words).encode("utf-8", "surrogateescape"), _("The question"))
    piped = ""
    if sys.stdin is not None and not sys.stdin.isatty():
        piped = _decode(sys.stdin.buffer.read(), _("What is piped in"))
    question = "\n\n".join(part for part in (typed, piped.strip("\r\n")) if part.strip())
    if not question:
        raise UsageError(
            _("there is no question"), _("Use it as: glmtui ask 'Why is the sky blue?'")
        )
    return question


def _decode(data: bytes, what: str) -> str:
    try:
        return decode_text(data)
    except UnknownEncoding as error:
        raise UsageError(
            _("{what} is not text in UTF-8 or in the encoding of the locale").format(what=what),
            _("Convert it first, such as with: iconv -f GBK -t UTF-8"),
        ) from error


class _Printer:
    """Writes to stdout; the progress line goes away before the first piece."""

    def __init__(self, line: ProgressLine, *, clean: bool) -> None:
        self._line = line
        self._cleaner = StreamSanitizer() if clean else None
        self._last = ""

    def add(self, piece: str) -> None:
        self._write(self._cleaner.feed(piece) if self._cleaner else piece)

    def end(self) -> None:
        """The last of the text, and a line end where it has none."""
        rest = self._cleaner.flush() if self._cleaner else ""
        last = rest or self._last
        self._write(rest + ("\n" if last and not last.endswith("\n") else ""))

    def _write(self, text: str) -> None:
        if not text:
            return
        if not self._last:
            self._line.erase()
        sys.stdout.write(text)
        sys.stdout.flush()
        self._last = text
