"""HFTokenizer: the tokenizer of a Hugging Face folder.

Its files are tokenizer.json, or the tokenizer.model of a Llama.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from glmtui.engine.catalog.model_folder import (
    MAX_VOCABULARY_BYTES,
    read_model_file,
)
from glmtui.engine.tokenization.sandboxed_tokenizer import SandboxedTokenizer
from glmtui.engine.tokenization.tokenizer_config import TokenizerConfig
from glmtui.errors import BadCheckpoint
from glmtui.language import _

MAX_TOKENIZER_BYTES = 64 << 20  # of tokenizer.json; Gemma 3's, with 262,144 tokens, has 33 MB


class HFTokenizer:
    """A tokenizer of Hugging Face's `tokenizers` library, as an `api.Tokenizer`."""

    def __init__(self, sandboxed: SandboxedTokenizer) -> None:
        self._sandboxed = sandboxed

    @cached_property
    def special(self) -> dict[str, int]:
        """The id of each special token. Raises BadCheckpoint if `load` did not wait."""
        special: dict[str, int] = self._sandboxed.facts["special"]
        return special

    @cached_property
    def end_tokens(self) -> dict[str, int]:
        """The id of each token that is special or has the name of an end of a turn."""
        return {**self._sandboxed.facts["ends"], **self.special}

    @cached_property
    def strips_leading_space(self) -> bool:
        return bool(self._sandboxed.facts["strips_leading_space"])

    @classmethod
    def load(cls, folder: Path, *, wait: bool = True) -> HFTokenizer | None:
        """The folder's tokenizer.json; None without the file.

        Args:
            wait: whether to wait until the file is loaded. Otherwise the first use waits, and
                raises the errors.

        Raises:
            BadCheckpoint: the file is not a tokenizer, or needs too much time or memory.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            return None
        config = TokenizerConfig(folder)
        tokenizer = cls.from_reader(
            lambda: read_model_file(path, MAX_TOKENIZER_BYTES),
            path,
            added=config.added_tokens,
            named=sorted(set(config.named_tokens.values())),
        )
        if wait:
            tokenizer._sandboxed.wait()
        return tokenizer

    @classmethod
    def from_reader(cls, read: Callable[[], bytes], path: Path, **options: Any) -> HFTokenizer:
        """The tokenizer.json that `read` returns; `path` is for messages. Does not wait."""

        def make_error(reason: str) -> BadCheckpoint:
            return BadCheckpoint(
                _("{path} is not a tokenizer: {error}").format(path=path, error=reason),
                _("Download the model again with: glmtui pull"),
            )

        return cls(SandboxedTokenizer("tokenizers", read, make_error, **options))

    @classmethod
    def load_sentencepiece(cls, folder: Path) -> HFTokenizer | None:
        """The folder's tokenizer.model, a SentencePiece file; None without the file.

        Raises:
            BadCheckpoint: as for `load`.
        """
        path = folder / "tokenizer.model"
        if not path.is_file():
            return None
        config = TokenizerConfig(folder)

        def make_error(reason: str) -> BadCheckpoint:
            return BadCheckpoint(
                _("{path} is not a tokenizer: {error}").format(path=path, error=reason),
                _("Put the tokenizer.json of the same model beside it; glmtui prefers that file."),
            )

        sandboxed = SandboxedTokenizer(
            "converted_sentencepiece",
            lambda: read_model_file(path, MAX_VOCABULARY_BYTES),
            make_error,
            added=config.added_tokens,
            legacy=config.settings.get("legacy") is True,
        )
        sandboxed.wait()
        return cls(sandboxed)

    def encode(self, text: str) -> list[int]:
        """Raises EngineError if the tokenizer needs too much time or memory for it."""
        return self.encode_each([text])[0]

    def encode_each(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, encoded separately. Raises like `encode`."""
        return self._sandboxed.encode_each(texts)

    def encode_prompt(
        self, text: str, special: Sequence[tuple[int, int, int]], *, has_typed: bool
    ) -> list[int]:
        """The ids of a text with special tokens, as transformers computes them.

        Args:
            special: start, end and id of each special token. The same characters anywhere else
                stay text.
            has_typed: whether the characters of a special token occur anywhere else.

        Raises:
            EngineError: as for `encode`.
        """
        return self._sandboxed.encode_prompt(text, special, has_typed=has_typed)

    def decode(self, ids: Sequence[int]) -> str:
        """Raises like `encode`."""
        return self._sandboxed.decode(ids)

    def token_bytes(self, token_id: int) -> bytes:
        return self._sandboxed.token_bytes(token_id)
