"""Backend: what the process of a tokenizer expects of a library with a file loaded into it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

MAX_TOKENS = 1 << 22  # higher ids have no text; known models have at most 262,144 tokens


class InvalidTokenizer(Exception):
    """The file is not of the expected kind, or exceeds a limit."""


class Backend(Protocol):
    """A library with a file loaded into it.

    Attributes:
        facts: JSON values that the parent process needs to know.
    """

    facts: dict[str, Any]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, encoded separately."""
        ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def vocabulary(self) -> Iterator[bytes]:
        """The bytes of each id from 0 on; see `api.Tokenizer.token_bytes`."""
        ...
