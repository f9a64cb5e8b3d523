"""Printing to stdout and stderr: text that is safe for a terminal, errors and warnings."""

from __future__ import annotations

import logging
import shutil
import sys
from typing import TextIO

from glmtui.errors import GlmtuiError
from glmtui.sanitize import sanitize


def print_text(text: str) -> None:
    """Prints to stdout; control characters are made visible if it is a terminal."""
    print(sanitize(text) if is_terminal(sys.stdout) else text, flush=True)


def print_error(error: GlmtuiError) -> None:
    """Prints an error and its hint to stderr."""
    hint = f"\n  {error.hint}" if error.hint else ""
    print(sanitize(f"glmtui: {error.message}{hint}"), file=sys.stderr)


def print_warnings() -> None:
    """Makes logged warnings appear on stderr, in the form of errors."""

    class ErrorPrinter(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print_error(GlmtuiError(record.getMessage()))

    logging.basicConfig(level=logging.WARNING, handlers=[ErrorPrinter()])


def terminal_width() -> int:
    """In cells."""
    return shutil.get_terminal_size().columns


def is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def set_stream_options(stream: TextIO, **options: str) -> None:
    """Changes the encoding or error handling of a stream, if it has these."""
    if reconfigure := getattr(stream, "reconfigure", None):  # missing in tests and notebooks
        reconfigure(**options)
