"""``glmtui ask``: one question, one reply on stdout, no screen.

Knows streams and how a reply is printed; the model behind it is any `api.ChatModel`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import locale
import sys
from collections.abc import Callable

from glmtui.chat import Message
from glmtui.config import Settings
from glmtui.engine import catalog
from glmtui.engine.api import ChatModel, PrefillProgress, ProgressHook, Reply, ServerSpec
from glmtui.errors import GlmtuiError, UsageError
from glmtui.progress_line import ProgressLine
from glmtui.sanitize import VisibleStream


def ask(question: str, settings: Settings, *, as_json: bool = False, strip: bool = False) -> None:
    """Prints the model's reply to `question` as it comes.

    Args:
        as_json: print one JSON object at the end instead.
        strip: make control characters visible even where stdout is no terminal.

    Raises:
        GlmtuiError, KeyboardInterrupt: after printing what there was of the reply.
    """
    system = settings.system_prompt
    messages = [] if system is None else [Message("system", system)]
    messages.append(Message("user", question))
    with ProgressLine() as line, contextlib.closing(open_chat(settings, line)) as model:
        stream = model.stream(messages, settings.sampling, on_prefill=_prefill_on(line))
        printer = _Printer(line, clean=strip or sys.stdout.isatty())
        stopped: GlmtuiError | KeyboardInterrupt | None = None
        try:
            for piece in stream:
                if not as_json:
                    printer.add(piece)
        except (GlmtuiError, KeyboardInterrupt) as error:
            stopped = error
            stream.close()
        if as_json:
            printer.add(as_object(model.info.name, stream.result, stopped))
        printer.end()
        if stopped:
            raise stopped


def open_chat(settings: Settings, on_progress: ProgressHook) -> ChatModel:
    """The model that `settings` name, or the default one, ready to answer. Raises GlmtuiError."""
    target = catalog.resolve(settings.model or catalog.DEFAULT_MODEL, settings.server_specs())
    if isinstance(target, ServerSpec):  # needs no torch
        from glmtui.engine.server import ServerModel

        return ServerModel.connect(target)
    from glmtui.engine.device import prepare_environment

    prepare_environment()
    from glmtui.engine.loader import open_model

    return open_model(target, settings.load_options, on_progress)


def as_object(model: str, reply: Reply, stopped: BaseException | None = None) -> str:
    """A reply as one JSON object: text, ids, finish_reason, stats, model."""
    found: dict[str, object] = {
        "text": reply.text,
        "ids": list(reply.ids),
        "finish_reason": reply.finish_reason,
        "stats": dataclasses.asdict(reply.stats)
        | {"prefill_rate": reply.stats.prefill_rate, "decode_rate": reply.stats.decode_rate},
        "model": model,
    }
    if isinstance(stopped, GlmtuiError):
        found |= {"finish_reason": "error", "error": stopped.message}
    elif stopped:
        found |= {"finish_reason": "cancelled"}
    return json.dumps(found, ensure_ascii=False)


def question_from(words: list[str]) -> str:
    """The question on the command line, with what is piped in below it.

    Raises:
        UsageError: there is neither.
    """
    # Arguments that are not text in the locale's encoding come with lone surrogates.
    typed = " ".join(words).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    piped = "" if sys.stdin is None or sys.stdin.isatty() else _decode(sys.stdin.buffer.read())
    question = "\n\n".join(part for part in (typed, piped.strip("\r\n")) if part.strip())
    if not question:
        raise UsageError("there is no question", "Use it as: glmtui ask 'Why is the sky blue?'")
    return question


def _decode(piped: bytes) -> str:
    try:
        return piped.decode("utf-8-sig")
    except UnicodeDecodeError:
        return piped.decode(locale.getpreferredencoding(False), "replace")


def _prefill_on(line: ProgressLine) -> Callable[[PrefillProgress], None]:
    return lambda progress: line.show(f"reading the question: {progress.done}/{progress.total}")


class _Printer:
    """Writes to stdout; the progress line goes away before the first piece."""

    def __init__(self, line: ProgressLine, *, clean: bool) -> None:
        self._line = line
        self._cleaner = VisibleStream() if clean else None
        self._last = ""

    def add(self, piece: str) -> None:
        self._write(self._cleaner.feed(piece) if self._cleaner else piece)

    def end(self) -> None:
        """The last of the text, and a line end where it has none."""
        rest = self._cleaner.end() if self._cleaner else ""
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
