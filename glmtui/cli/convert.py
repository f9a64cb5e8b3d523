"""``glmtui slim`` and ``glmtui quantize``: a model made out of another, from the command line.

Knows arguments, signals and the progress line; the work is `engine.slim`'s and `engine.prepare`'s.
"""

from __future__ import annotations

import signal
import threading
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

from glmtui.cli.progress import ProgressLine
from glmtui.cli.tables import format_size
from glmtui.engine.catalog import resolver
from glmtui.engine.model_info import ServerSpec
from glmtui.errors import GlmtuiError, ModelError, UsageError
from glmtui.language import _


class Interrupted(GlmtuiError):
    """The person who asked for it stopped it; nothing of it is left."""


def convert_model(args: Namespace) -> str:
    """Does what the command line asks for. Returns what to tell of it.

    Raises:
        Interrupted: by a signal.
        GlmtuiError: it cannot be done.
    """
    source = resolver.resolve(args.source)
    if isinstance(source, ServerSpec):
        raise UsageError(
            _("{name} is a server, not a model on this machine").format(name=args.source)
        )
    with _stop_signal() as stopped, ProgressLine() as line:
        try:
            if args.command == "slim":
                from glmtui.engine.convert.slim import convert_to_slim

                made = convert_to_slim(
                    source.path, args.target, on_progress=line, cancelled=stopped
                )
                return f"{made.summary}\nChat with it: glmtui -m {made.folder}"
            from glmtui.engine.convert.quantize import quantize_checkpoint

            info = quantize_checkpoint(
                source, args.target, args.bits, on_progress=line, cancelled=stopped
            )
        except ModelError as error:
            if stopped.is_set():
                raise Interrupted(f"{args.command} was stopped; nothing of it is left.") from error
            raise
    return (
        f"{info.path} is ready: {format_size(info.nbytes)}, {info.stored}.\n"
        f"Chat with it: glmtui -m {info.name}"
    )


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """Set by Ctrl+C or SIGTERM in place of an interruption, which torch does not bear."""
    stopped = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stopped.set()) for number in numbers]
    try:
        yield stopped
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
