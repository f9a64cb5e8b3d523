"""PromptEncoder: the ids of a rendered chat template, as transformers gives them.

A tokenizer looks at a text as a whole: some put a space before its first word only, and special
tokens may take the whitespace beside them. So a prompt is not encoded in pieces. Runs in the
tokenizer's process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

FIRST_ALIAS = 0x100000  # private characters of Unicode's last plane


class PromptEncoder:
    """Encodes texts in which special tokens stand at known places only.

    What is spelled like a special token anywhere else stays text.

    Args:
        fast: the `tokenizers.Tokenizer`, set to take special tokens in a text as text. It is
            given an *alias* for every special token of a prompt that also spells one as text: a
            token of one character that is matched in the same way.

    Attributes:
        aliases: the id of each alias, and of the token that it stands for.
    """

    def __init__(self, fast: Any) -> None:
        self._fast = fast
        self.aliases: dict[int, int] = {}
        self._alias_of: dict[int, str] = {}
        every = fast.get_added_tokens_decoder()
        self._special = {i for i, token in every.items() if token.special}

    def encode(self, text: str, special: Sequence[Sequence[int]], *, typed: bool) -> list[int]:
        """See `hub_format.TokenizerJson.encode_prompt`."""
        ids = None if typed else self._whole(text, special)
        if ids is None:
            ids = self._aliased(text, special)
        return self._in_parts(text, special) if ids is None else ids

    def _whole(self, text: str, special: Sequence[Sequence[int]]) -> list[int] | None:
        """The library's own answer; None where it takes other text for a special token.

        It may: "＜s＞" is "<s>" to a normalizer.
        """
        self._fast.encode_special_tokens = False
        try:
            encoding = self._fast.encode(text, add_special_tokens=False)
        finally:
            self._fast.encode_special_tokens = True
        places = iter(special)
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token in self._special and not any(
                token == due and start < last and first < end for first, last, due in places
            ):
                return None
        return list(encoding.ids)

    def _aliased(self, text: str, special: Sequence[Sequence[int]]) -> list[int] | None:
        """With aliases in place of special tokens; None where the text has an alias itself."""
        if max(text, default="") >= chr(FIRST_ALIAS):
            return None
        self._add_aliases({token for _start, _end, token in special})
        parts, at, places = _between(text, special), 0, []
        for part, (_start, _end, token) in zip(parts, special, strict=False):
            at += len(part) + 1
            places.append((at - 1, self._alias_of[token]))
        whole = parts[0] + "".join(
            alias + part for (_at, alias), part in zip(places, parts[1:], strict=True)
        )
        encoding = self._fast.encode(whole, add_special_tokens=False)
        ids = list(encoding.ids)
        spans = [span for i, span in zip(ids, encoding.offsets, strict=True) if i in self.aliases]
        if len(spans) < len(special):  # not every place is one where the tokenizer sees a token
            seen = {at for start, end in spans for at in range(start, end)}
            found = [one for one, (at, _) in zip(special, places, strict=True) if at in seen]
            return self._aliased(text, found) if len(found) < len(special) else None
        return [self.aliases.get(i, i) for i in ids]

    def _add_aliases(self, ids: set[int]) -> None:
        from tokenizers import AddedToken

        every = self._fast.get_added_tokens_decoder()
        for token_id in sorted(ids - self._alias_of.keys()):
            alias = chr(FIRST_ALIAS + len(self._alias_of))
            token = every[token_id]
            added = AddedToken(
                alias,
                single_word=token.single_word,
                lstrip=token.lstrip,
                rstrip=token.rstrip,
                normalized=token.normalized,
                special=False,
            )
            self._fast.add_tokens([added])
            self._alias_of[token_id] = alias
            self.aliases[self._fast.token_to_id(alias)] = token_id

    def _in_parts(self, text: str, special: Sequence[Sequence[int]]) -> list[int]:
        """Each part between special tokens by itself."""
        parts = self._fast.encode_batch_fast(_between(text, special), add_special_tokens=False)
        ids = list(parts[0].ids)
        for (_start, _end, token), part in zip(special, parts[1:], strict=True):
            ids += [token, *part.ids]
        return ids


def _between(text: str, special: Sequence[Sequence[int]]) -> list[str]:
    """The text before, between and behind the special tokens."""
    starts = [0, *(end for _start, end, _token in special)]
    ends = [*(start for start, _end, _token in special), len(text)]
    return [text[start:end] for start, end in zip(starts, ends, strict=True)]
