"""TiktokenBackend: a tiktoken vocabulary, read by OpenAI's tiktoken library."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from glmtui.engine.tokenization.sandbox.backend import InvalidTokenizer


class TiktokenBackend:
    """A file with a piece in base64 and its rank on each line.

    Options: ``split`` is the regular expression that splits text into words; ``special`` are the
    special tokens, whose ids follow the ranks. Fact: ``special``, the id of each special token.
    """

    @staticmethod
    def prepare() -> None:
        """Imports the library."""
        import tiktoken  # noqa: F401

    def __init__(self, content: bytes, options: Mapping[str, Any]) -> None:
        from tiktoken import Encoding

        ranks: dict[bytes, int] = {}
        try:
            for line in content.split(b"\n"):
                if line:
                    piece, rank = line.split()
                    ranks[base64.b64decode(piece, validate=True)] = int(rank)
        except binascii.Error as error:
            raise InvalidTokenizer(str(error)) from error
        if sorted(ranks.values()) != list(range(len(ranks))) or not ranks:
            raise InvalidTokenizer("ranks are missing")
        special = {token: len(ranks) + i for i, token in enumerate(options["special"])}
        self._encoding = Encoding(
            "ranks", pat_str=options["split"], mergeable_ranks=ranks, special_tokens=special
        )
        self.facts = {"special": special}

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._encoding.encode_ordinary(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Special tokens are written out."""
        return str(self._encoding.decode(list(ids)))

    def vocabulary(self) -> Iterator[bytes]:
        ids = range(self._encoding.max_token_value + 1)
        return map(self._encoding.decode_single_token_bytes, ids)
