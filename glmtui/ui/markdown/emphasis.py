"""Emphasis in Chinese, Japanese and Korean text, where no space stands beside the asterisks.

CommonMark takes ``**注意：**请`` for text: emphasis that begins or ends with punctuation needs a
space or punctuation on the other side of its asterisks too. This is the amendment of
https://github.com/tats-u/markdown-cjk-friendly (specification.md) for markdown-it; without CJK
characters beside the asterisks nothing changes. Imports markdown-it: import it late.
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
"""Those of Hangul's blocks whose width alone does not tell them."""

_EMOJI = re.compile(
    "[\u231a\u231b\u23e9-\u262f\u2638-\u2689\u2690-\u2bff\U0001f004\U0001f0cf\U0001f18e-\U0001f19a"
    "\U0001f201\U0001f21a\U0001f22f\U0001f232-\U0001f236\U0001f238-\U0001f23a"
    "\U0001f250\U0001f251\U0001f300-\U0001faff]"
)
"""Of the wide characters, those that are drawn as an emoji by default (UTS #51)."""

_VARIATION = re.compile("[\ufe00-\ufe0e]")  # selectors, without that of emojis
_IDEOGRAPHIC_VARIATION = re.compile("[\U000e0100-\U000e01ef]")
_FULL_WIDTH_QUOTES = ("‘\ufe01", "’\ufe01", "“\ufe01", "”\ufe01")


class CJKInline(ParserInline):
    """markdown-it's parser of what stands in a line, for Chinese, Japanese and Korean too."""

    def parse(self, src: str, md: MarkdownIt, env: EnvType, tokens: list[Token]) -> list[Token]:
        """The inline tokens of `src`, added to `tokens`."""
        state = _State(src, md, env, tokens)
        self.tokenize(state)
        for rule in self.ruler2.getRules(""):
            rule(state)
        return state.tokens


class _State(StateInline):
    def scanDelims(self, start: int, canSplitWord: bool) -> Scanned:  # noqa: N802, N803
        """The run of delimiters at `start`: whether it may open and close emphasis, its length."""
        src, stop = self.src, start
        while stop < self.posMax and src[stop] == src[start]:
            stop += 1
        # the ends of the text count as spaces
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
    """Whether a character is wide, full-width or half-width and no emoji, or is Hangul."""
    if char.isascii():
        return False
    if east_asian_width(char) in ("W", "F", "H"):
        return not _EMOJI.fullmatch(char)
    return bool(_HANGUL.fullmatch(char))


def _is_punctuation(char: str) -> bool:
    return isMdAsciiPunct(ord(char)) or isPunctChar(char)
