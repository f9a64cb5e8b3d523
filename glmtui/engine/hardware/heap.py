"""trim_heap: memory that was freed, back to the system."""

from __future__ import annotations

import ctypes
from contextlib import suppress


def trim_heap() -> None:
    """Gives freed memory of the C heap back to the system, where the C library is glibc.

    Tensors of less than 32 MB come from the heap once larger ones were freed, and glibc keeps
    what lies below the topmost of them that is in use (mallopt(3), M_MMAP_THRESHOLD).
    """
    with suppress(AttributeError, OSError):  # musl and macOS have no such function
        ctypes.CDLL(None).malloc_trim(0)
