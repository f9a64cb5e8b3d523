"""Calls into a library on behalf of an untrusted file: bounded in time, panics made errors.

A tokenizer.json brings regular expressions, and some take longer than anyone lives. The library
gives up on a single match, not on many; nor can a call be ended from outside. So it has a thread
of its own, which is left behind. Knows nothing of tokenizers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from glmtui.errors import EngineError
from glmtui.language import N_, _

T = TypeVar("T")

ELSE = N_("Take the tokenizer.json that the model was published with, or another model.")


class Patience:
    """Waits for one call after the other, each for so long and no longer.

    Args:
        what: does the work, for people: "The model's tokenizer".
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._left: threading.Thread | None = None  # one that was not waited for any longer

    def run(self, call: Callable[[], T], seconds: float) -> T:
        """What the call returns.

        Args:
            call: lets other threads run meanwhile; may go on for ever.

        Raises:
            EngineError: it panics, or takes longer; also while one that did still runs.
            Exception: what the call raises.
        """
        if self._left is not None and self._left.is_alive():
            raise EngineError(
                _("{what} is still busy with a text that it cannot manage.").format(
                    what=self._what
                ),
                _(ELSE),
            )
        work = _Work(call)
        work.thread.start()
        work.thread.join(seconds)
        if work.thread.is_alive():
            self._left = work.thread
            raise EngineError(
                _("{what} takes more than {seconds} s for this text.").format(
                    what=self._what, seconds=round(seconds)
                ),
                _(ELSE),
            )
        return work.outcome(self._what)


class _Work(Generic[T]):
    def __init__(self, call: Callable[[], T]) -> None:
        self.thread = threading.Thread(target=self.run, name="glmtui-patience", daemon=True)
        self._call = call
        self._result: T | None = None
        self._raised: BaseException | None = None

    def run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:  # a panic of Rust's is no Exception
            self._raised = error

    def outcome(self, what: str) -> T:
        error = self._raised
        if error is None:
            return self._result  # type: ignore[return-value]
        if isinstance(error, Exception) or type(error).__name__ != "PanicException":
            raise error
        raise EngineError(
            _("{what} gave up on this text: {error}").format(what=what, error=error), _(ELSE)
        ) from error
