"""TokenizerConfig: what tokenizer_config.json and the files beside it say about tokens.

Older folders have special_tokens_map.json and added_tokens.json for these.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from glmtui.engine.catalog.model_folder import read_optional_object

NAMED_TOKENS = tuple(f"{name}_token" for name in ["bos", "eos", "unk", "sep", "pad", "cls", "mask"])
TOKEN_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


class TokenizerConfig:
    """The files of one folder, each of which may be missing. They are read at the first use.

    Every property raises BadCheckpoint for a file that is not a JSON object.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The content of tokenizer_config.json."""
        return read_optional_object(self._folder / "tokenizer_config.json")

    @cached_property
    def named_tokens(self) -> dict[str, str]:
        """The text of bos_token, eos_token and so on, by these names."""
        tokens = {}
        special_tokens_map = read_optional_object(self._folder / "special_tokens_map.json")
        for source in (special_tokens_map, self.settings):
            for key in NAMED_TOKENS:
                value = source.get(key)
                if isinstance(value, dict):
                    value = value.get("content")
                if isinstance(value, str) and value:
                    tokens[key] = value
        return tokens

    @cached_property
    def added_tokens(self) -> dict[int, dict[str, Any]]:
        """The tokens that were added to the vocabulary: keyword arguments of AddedToken, by id."""
        special = set(self.named_tokens.values())
        tokens: dict[int, dict[str, Any]] = {}
        for text, token_id in read_optional_object(self._folder / "added_tokens.json").items():
            if isinstance(token_id, int):
                tokens[token_id] = {"content": text, "special": text in special}
        decoder = self.settings.get("added_tokens_decoder")
        for key, entry in decoder.items() if isinstance(decoder, dict) else ():
            content = entry.get("content") if isinstance(entry, dict) else None
            # an id of nine digits is beyond any vocabulary
            if isinstance(content, str) and key.isdecimal() and len(key) < 9:
                flags = {flag: entry.get(flag) is True for flag in TOKEN_FLAGS}
                flags["special"] |= content in special
                tokens[int(key)] = {"content": content, **flags}
        return tokens
