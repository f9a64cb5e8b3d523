"""``glmtui ask``: one question, and its reply on stdout."""

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
from glmtui.engine.catalog.known_models import DEFAULT_MODEL
from glmtui.engine.open_model import open_model
from glmtui.engine.progress import ProgressHook
from glmtui.errors import GlmtuiError, UsageError
from glmtui.language import _
from glmtui.sanitize import StreamSanitizer
from glmtui.system.text_encoding import UnknownEncoding, decode_text


def ask(question: str, settings: Settings, *, as_json: bool = False, strip: bool = False) -> int:
    """Prints the reply to `question` as it is generated. Returns the exit code.

    Args:
        as_json: print one JSON object at the end instead.
        strip: make control characters visible even if stdout is not a terminal.

    Raises:
        GlmtuiError: after the partial reply was printed.
    """
    system = settings.system_prompt
    messages = [] if system is None else [Message("system", system)]
    messages.append(Message("user", question))
    with (
        ProgressLine() as line,
        InterruptHandler(line) as interrupt,
        contextlib.closing(open_chat_model(settings, line)) as model,
    ):
        failure: GlmtuiError | None = None
        printer = _Printer(line, sanitize=strip or sys.stdout.isatty())
        stream = model.stream(
            messages,
            settings.sampling,
            cancelled=interrupt.cancelled,
            on_prefill=lambda read: line.show(f"reading the prompt: {read.done}/{read.total}"),
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
        return 130 if interrupt.pressed else 0


def open_chat_model(settings: Settings, on_progress: ProgressHook) -> ChatModel:
    """Opens the model in the settings, or the default model. Raises GlmtuiError."""
    options = settings.load_options
    name = settings.model or DEFAULT_MODEL
    target = resolver.resolve(name, settings.server_specs(), options.family)
    return open_model(target, options, on_progress)


class InterruptHandler:
    """As a context manager: Ctrl+C ends the reply, or the process if no reply can be ended.

    Python's default, a KeyboardInterrupt at any point, aborts the process or causes other errors if
    it occurs while torch is imported or in its C++ code.
    """

    def __init__(self, line: ProgressLine) -> None:
        self.pressed = False
        self._line = line
        self._polled = False  # whether a stream checks for cancellation
        self._previous: Any = None

    def cancelled(self) -> bool:
        """Whether the reply should end. After the first call, Ctrl+C relies on such calls."""
        self._polled = True
        return self.pressed

    def __enter__(self) -> InterruptHandler:
        # A background job of a shell ignores SIGINT; keep that.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._previous = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _press(self, number: int, frame: object) -> None:
        if self.pressed or not self._polled:
            self._line.erase()
            os._exit(130)
        self.pressed = True


def reply_as_json(model: str, reply: Reply, failure: GlmtuiError | None = None) -> str:
    """A reply as one JSON object, with the error if it failed."""
    content: dict[str, object] = {
        "text": reply.text,
        "ids": list(reply.ids),
        "finish_reason": reply.finish_reason,
        "stats": dataclasses.asdict(reply.stats)
        | {"prefill_rate": reply.stats.prefill_rate, "decode_rate": reply.stats.decode_rate},
        "model": model,
    }
    if failure:
        content |= {"finish_reason": "error", "error": failure.message}
    return json.dumps(content, ensure_ascii=False)


def read_question(words: list[str]) -> str:
    """The question on the command line, followed by the text from a pipe.

    Raises:
        UsageError: there is neither, or it is not valid text.
    """
    # Python decodes bytes of arguments that are invalid in the locale's encoding to surrogates.
    typed = _decode(" ".join(words).encode("utf-8", "surrogateescape"), _("The question"))
    piped = ""
    if sys.stdin is not None and not sys.stdin.isatty():
        piped = _decode(sys.stdin.buffer.read(), _("The input from the pipe"))
    question = "\n\n".join(part for part in (typed, piped.strip("\r\n")) if part.strip())
    if not question:
        raise UsageError(_("No question was given."), _("Usage: glmtui ask 'Why is the sky blue?'"))
    return question


def _decode(data: bytes, source: str) -> str:
    try:
        return decode_text(data)
    except UnknownEncoding as error:
        raise UsageError(
            _("{source} is not text in UTF-8 or in the encoding of the locale.").format(
                source=source
            ),
            _("Convert it first, for example with: iconv -f GBK -t UTF-8"),
        ) from error


class _Printer:
    """Writes to stdout, and erases the progress line before the first text."""

    def __init__(self, line: ProgressLine, *, sanitize: bool) -> None:
        self._line = line
        self._sanitizer = StreamSanitizer() if sanitize else None
        self._last = ""

    def add(self, piece: str) -> None:
        self._write(self._sanitizer.feed(piece) if self._sanitizer else piece)

    def end(self) -> None:
        """Writes the rest, and a newline if the text does not end with one."""
        rest = self._sanitizer.flush() if self._sanitizer else ""
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
