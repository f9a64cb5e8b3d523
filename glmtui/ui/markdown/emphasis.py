"""Emphasis in Chinese, Japanese and Korean text without spaces beside the asterisks.

CommonMark reads ``**注意：**请`` as plain text: emphasis that begins or ends with punctuation needs
a space or punctuation on the other side of its asterisks. This module implements the amendment of
https://github.com/tats-u/markdown-cjk-friendly (specification.md) for markdown-it. Text without CJK
characters beside the asterisks is parsed as before. Import it late: it imports markdown-it.
"""

from __future__ import annotations

import re
from unicodedata import east_asian_width

from markdown_it import MarkdownIt
from markdown_it.common.utils import isMdAsciiPunct, isPunctChar, isWhiteSpace
from markdown_it.parser_inline import ParserInline
from markdown_it.rules_inline import StateInline
from markdown_it.rules_inline.state_inline import Scanned
from markdown_it.token import Token
from markdown_it.utils import EnvType

_HANGUL = re.compile("[\u1100-\u11ff\u302e\u302f\ua960-\ua97f\ud7b0-\ud7ff]")
"""The Hangul characters that are not wide according to `east_asian_width`."""

_EMOJI = re.compile(
    "[\u231a\u231b\u23e9-\u262f\u2638-\u2689\u2690-\u2bff\U0001f004\U0001f0cf\U0001f18e-\U0001f19a"
    "\U0001f201\U0001f21a\U0001f22f\U0001f232-\U0001f236\U0001f238-\U0001f23a"
    "\U0001f250\U0001f251\U0001f300-\U0001faff]"
)
"""The wide characters with emoji presentation by default (UTS #51)."""

_VARIATION = re.compile("[\ufe00-\ufe0e]")  # variation selectors, except the one of emojis
_IDEOGRAPHIC_VARIATION = re.compile("[\U000e0100-\U000e01ef]")
_FULL_WIDTH_QUOTES = ("‘\ufe01", "’\ufe01", "“\ufe01", "”\ufe01")


class CJKInline(ParserInline):
    """markdown-it's inline parser, with the emphasis rules for CJK text."""

    def parse(self, src: str, md: MarkdownIt, env: EnvType, tokens: list[Token]) -> list[Token]:
        """Adds the inline tokens of `src` to `tokens`."""
        state = _State(src, md, env, tokens)
        self.tokenize(state)
        for rule in self.ruler2.getRules(""):
            rule(state)
        return state.tokens


class _State(StateInline):
    def scanDelims(self, start: int, canSplitWord: bool) -> Scanned:  # noqa: N802, N803
        """The delimiter run at `start`: whether it can open and close emphasis, and its length.

        Overrides markdown-it's method. The names follow the CommonMark specification ("left-" and
        "right-flanking").
        """
        src, stop = self.src, start
        while stop < self.posMax and src[stop] == src[start]:
            stop += 1
        # The start and the end of the text count as spaces.
        before = src[max(0, start - 2) : start] or " "
        after = src[stop] if stop < self.posMax else " "
        if len(before) == 2 and (
            not _VARIATION.fullmatch(before[1]) or isWhiteSpace(ord(before[0]))
        ):
            before = before[1]
        blank_before, blank_after = isWhiteSpace(ord(before[0])), isWhiteSpace(ord(after))
        cjk_before = is_cjk(before[0]) or bool(_IDEOGRAPHIC_VARIATION.fullmatch(before))
        cjk_after = is_cjk(after)
        mark_before, mark_after = _is_punctuation(before[0]), _is_punctuation(after)
        other_mark_before = mark_before and not cjk_before and before not in _FULL_WIDTH_QUOTES
        other_mark_after = mark_after and not cjk_after

        left = not blank_after and (
            not other_mark_after or blank_before or other_mark_before or cjk_before
        )
        right = not blank_before and (
            not other_mark_before or blank_after or other_mark_after or cjk_after
        )
        return Scanned(
            left and (canSplitWord or not right or mark_before),
            right and (canSplitWord or not left or mark_after),
            stop - start,
        )


def is_cjk(char: str) -> bool:
    """Whether a character is wide, full-width or half-width but not an emoji, or is Hangul."""
    if char.isascii():
        return False
    if east_asian_width(char) in ("W", "F", "H"):
        return not _EMOJI.fullmatch(char)
    return bool(_HANGUL.fullmatch(char))


def _is_punctuation(char: str) -> bool:
    return isMdAsciiPunct(ord(char)) or isPunctChar(char)
