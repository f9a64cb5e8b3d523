"""``glmtui slim`` and ``glmtui quantize``: converting a model, with progress and cancellation."""

from __future__ import annotations

import signal
import threading
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

from glmtui.cli.progress import ProgressLine
from glmtui.cli.text_tables import format_size
from glmtui.engine.catalog import resolver
from glmtui.engine.model_info import ServerSpec
from glmtui.errors import GlmtuiError, ModelError, UsageError
from glmtui.language import _


class Interrupted(GlmtuiError):
    """The user interrupted the conversion; its files were removed."""


def convert_model(args: Namespace) -> str:
    """Converts a model as the arguments say. Returns the message for the user.

    Raises:
        Interrupted: by a signal.
        GlmtuiError: the conversion failed.
    """
    source = resolver.resolve(args.source)
    if isinstance(source, ServerSpec):
        raise UsageError(
            _("{name} is a server, not a model on this machine.").format(name=args.source)
        )
    with _cancel_on_signal() as cancelled, ProgressLine() as line:
        try:
            if args.command == "slim":
                from glmtui.engine.convert.slim import convert_to_slim

                result = convert_to_slim(
                    source.path, args.target, on_progress=line, cancelled=cancelled
                )
                return f"{result.summary}\nChat with it: glmtui -m {result.folder}"
            from glmtui.engine.convert.quantize import quantize_checkpoint

            info = quantize_checkpoint(
                source, args.target, args.bits, on_progress=line, cancelled=cancelled
            )
        except ModelError as error:
            if cancelled.is_set():
                raise Interrupted(
                    f"{args.command} was interrupted; its files were removed."
                ) from error
            raise
    return (
        f"Written to {info.path} ({format_size(info.nbytes)}, {info.stored}).\n"
        f"Chat with it: glmtui -m {info.name}"
    )


@contextmanager
def _cancel_on_signal() -> Iterator[threading.Event]:
    """An event that Ctrl+C or SIGTERM sets. A KeyboardInterrupt within torch is not safe."""
    cancelled = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, lambda *_: cancelled.set()) for number in numbers]
    try:
        yield cancelled
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
