"""PromptEncoder: the ids of a rendered chat template, as transformers computes them.

A tokenizer needs the whole text: some add a space before its first word only, and special tokens
can take the whitespace beside them. So a prompt cannot be encoded part by part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

FIRST_ALIAS = 0x100000  # private-use characters of Unicode's last plane

Special: TypeAlias = Sequence[Sequence[int]]
"""Start, end and id of each special token in a text, in order."""


class PromptEncoder:
    """Encodes texts in which special tokens are at given places only.

    The characters of a special token anywhere else stay text. If there are any, the encoder uses
    *aliases*: each special token of the prompt is replaced by a private-use character, which is
    added to the tokenizer with the same matching flags.

    Args:
        tokenizer: a `tokenizers.Tokenizer` with encode_special_tokens set, that is, one that takes
            special tokens in a text as text.

    Attributes:
        aliases: the id of the special token by the id of its alias.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.aliases: dict[int, int] = {}
        self._alias_of: dict[int, str] = {}
        added = tokenizer.get_added_tokens_decoder()
        self._special_ids = {i for i, token in added.items() if token.special}

    def encode(self, text: str, special: Special, *, has_typed: bool) -> list[int]:
        """See `HFTokenizer.encode_prompt`."""
        ids = None if has_typed else self._encode_whole(text, special)
        if ids is None:
            ids = self._encode_aliased(text, special)
        return self._encode_parts(text, special) if ids is None else ids

    def _encode_whole(self, text: str, special: Special) -> list[int] | None:
        """The library's own result; None if it takes other text for a special token.

        A normalizer can cause this: it can turn "＜s＞" into "<s>".
        """
        self._tokenizer.encode_special_tokens = False
        try:
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
        finally:
            self._tokenizer.encode_special_tokens = True
        remaining = iter(special)
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token in self._special_ids and not any(
                token == expected and start < last and first < end
                for first, last, expected in remaining
            ):
                return None
        return list(encoding.ids)

    def _encode_aliased(self, text: str, special: Special) -> list[int] | None:
        """The ids by way of aliases; None if the text itself contains one."""
        if max(text, default="") >= chr(FIRST_ALIAS):
            return None
        self._add_aliases({token for _start, _end, token in special})
        parts, position, places = _split(text, special), 0, []
        for part, (_start, _end, token) in zip(parts, special, strict=False):
            position += len(part) + 1
            places.append((position - 1, self._alias_of[token]))
        aliased = parts[0] + "".join(
            alias + part for (_position, alias), part in zip(places, parts[1:], strict=True)
        )
        encoding = self._tokenizer.encode(aliased, add_special_tokens=False)
        ids = list(encoding.ids)
        spans = [span for i, span in zip(ids, encoding.offsets, strict=True) if i in self.aliases]
        if len(spans) < len(special):  # the tokenizer does not match a token at every place
            covered = {i for start, end in spans for i in range(start, end)}
            matched = [
                entry
                for entry, (position, _alias) in zip(special, places, strict=True)
                if position in covered
            ]
            return self._encode_aliased(text, matched) if len(matched) < len(special) else None
        return [self.aliases.get(i, i) for i in ids]

    def _add_aliases(self, ids: set[int]) -> None:
        from tokenizers import AddedToken

        added = self._tokenizer.get_added_tokens_decoder()
        for token_id in sorted(ids - self._alias_of.keys()):
            alias = chr(FIRST_ALIAS + len(self._alias_of))
            token = added[token_id]
            alias_token = AddedToken(
                alias,
                single_word=token.single_word,
                lstrip=token.lstrip,
                rstrip=token.rstrip,
                normalized=token.normalized,
                special=False,
            )
            self._tokenizer.add_tokens([alias_token])
            self._alias_of[token_id] = alias
            self.aliases[self._tokenizer.token_to_id(alias)] = token_id

    def _encode_parts(self, text: str, special: Special) -> list[int]:
        """The text between special tokens, encoded part by part: the last resort."""
        parts = self._tokenizer.encode_batch_fast(_split(text, special), add_special_tokens=False)
        ids = list(parts[0].ids)
        for (_start, _end, token), part in zip(special, parts[1:], strict=True):
            ids += [token, *part.ids]
        return ids


def _split(text: str, special: Special) -> list[str]:
    """The text before, between and after the special tokens."""
    starts = [0, *(end for _start, end, _token in special)]
    ends = [*(start for start, _end, _token in special), len(text)]
    return [text[start:end] for start, end in zip(starts, ends, strict=True)]
