"""Progress and cancellation of long work other than replies: loading, pulling, converting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a long task is.

    Attributes:
        what: a short description, such as "downloading model.safetensors".
        done, total: bytes; `total` is 0 while unknown.
    """

    what: str
    done: int = 0
    total: int = 0


ProgressHook: TypeAlias = Callable[[Progress], None]
CancelFlag: TypeAlias = threading.Event


class LoadCancelled(Exception):
    """Loading was cancelled. Not an error that users see."""
