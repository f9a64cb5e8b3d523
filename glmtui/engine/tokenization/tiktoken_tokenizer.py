"""TiktokenTokenizer: a tiktoken vocabulary, which is a file of byte pieces by rank."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from glmtui.engine.catalog.model_folder import MAX_VOCABULARY_BYTES, read_model_file
from glmtui.engine.tokenization.sandboxed_tokenizer import SandboxedTokenizer
from glmtui.errors import BadCheckpoint
from glmtui.language import _


class TiktokenTokenizer:
    """A tiktoken file with special tokens, as an `api.Tokenizer`.

    The ids of special tokens follow the ranks. `encode` never returns one: text that contains the
    characters of a special token stays text. `decode` writes special tokens out.
    """

    strips_leading_space = False

    def __init__(self, sandboxed: SandboxedTokenizer) -> None:
        self._sandboxed = sandboxed
        self.special: dict[str, int] = sandboxed.facts["special"]
        self._size = max(self.special.values()) + 1

    @classmethod
    def load(cls, path: Path, special: Sequence[str], split: str) -> TiktokenTokenizer | None:
        """The file at `path`; None if there is none.

        Args:
            special: special tokens in the order of their ids.
            split: the regular expression that splits text into words before pieces are merged.

        Raises:
            BadCheckpoint: the file is not a tiktoken vocabulary.
        """
        if not path.is_file():
            return None
        return cls(
            SandboxedTokenizer(
                "tiktoken",
                lambda: read_model_file(path, MAX_VOCABULARY_BYTES),
                lambda error: BadCheckpoint(
                    _("{path} is not a tiktoken vocabulary: {error}").format(
                        path=path, error=error
                    ),
                    _("Download the model again with: glmtui pull"),
                ),
                split=split,
                special=special,
            )
        )

    def encode(self, text: str) -> list[int]:
        return self._sandboxed.encode_each([text])[0]

    def decode(self, ids: Sequence[int]) -> str:
        return self._sandboxed.decode([i for i in ids if 0 <= i < self._size])

    def token_bytes(self, token_id: int) -> bytes:
        return self._sandboxed.token_bytes(token_id)
