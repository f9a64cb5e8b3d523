r"""Where the formulas are in a Markdown text: rules for markdown-it, which knows none.

``$...$`` and ``\(...\)`` stand in a line; ``$$...$$`` and ``\[...\]`` may have lines of their own.
A price is no formula: "$5 and $6" stays text. Whether a line opens a formula can be said of that
line alone, so that a text that is still written needs no second look. Knows nothing of LaTeX.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from glmtui.sanitize import sanitize
from glmtui.ui.markdown.latex import LONGEST, unicode_math

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token

INLINE, BLOCK = "formula_inline", "formula_block"
_CLOSINGS = {"$$": "$$", r"\[": r"\]", "$": "$", r"\(": r"\)"}

_FORMULA = re.compile(
    rf"(?P<open>\$\$)(?P<in>(?:\\.|[^\\$]){{1,{LONGEST}}}?)\$\$"
    rf"|(?P<open2>\$)(?![\s$])(?P<in2>(?:\\.|[^\\$`]){{1,{LONGEST}}}?)(?<!\s)\$(?![0-9A-Za-z$])"
    rf"|(?P<open3>\\\()(?P<in3>.{{1,{LONGEST}}}?)\\\)"
    rf"|(?P<open4>\\\[)(?P<in4>.{{1,{LONGEST}}}?)\\\]",
    re.DOTALL,
)
_SIGN = re.compile(r"[\\^_=]")
_WORD = re.compile(r"[A-Za-z]{2,}")


def add_formulas(parser: MarkdownIt) -> MarkdownIt:
    """Lets `parser` make tokens of formulas: `INLINE` and `BLOCK`."""
    parser.inline.ruler.before("escape", "formula", _inline)
    ends = ["paragraph", "reference", "blockquote", "list"]  # what it may interrupt, as a fence
    parser.block.ruler.before("fence", "formula", _block, {"alt": ends})
    return parser


def shown(token: Token) -> str:
    """A formula's token as Unicode, or as its source where that cannot be."""
    source = sanitize(token.content)
    closing = _CLOSINGS[token.markup]
    if token.info == "open":
        return token.markup + source
    return (unicode_math(source) or token.markup + source + closing) + sanitize(token.info)


def _inline(state: StateInline, silent: bool) -> bool:
    at = state.pos
    before = state.src[at - 1 : at] if at else ""
    if state.src[at] not in "$\\" or before == "$":
        return False
    found = _FORMULA.match(state.src, at, state.posMax)
    if found is None:
        return False
    opening, source = (next(filter(None, found.group(n, n + 2, n + 4, n + 6))) for n in (1, 2))
    if opening == "$" and (_is_word(before) or not _is_formula(source)):
        return False
    if not silent:
        token = state.push(INLINE, "", 0)
        token.content, token.markup = source, opening
    state.pos = found.end()
    return True


def _is_word(char: str) -> bool:
    return char.isascii() and char.isalnum()


def _is_formula(source: str) -> bool:
    """Whether this is none of the words between two prices."""
    return bool(_SIGN.search(source)) or not re.search(r"\s", source) or not _WORD.search(source)


def _block(state: StateBlock, line: int, end: int, silent: bool) -> bool:
    if state.is_code_block(line):
        return False
    text = _line(state, line)
    opening = text[:2]
    if opening not in ("$$", r"\["):
        return False
    source, closing, after = text[2:].partition(_CLOSINGS[opening])
    if closing and (after.strip(" .,;:。，；") or not source.strip()):
        return False  # a line of text that begins with a formula
    if silent:
        return True
    last, lines = line, [source]
    while not closing:
        last += 1
        if last >= end or state.isEmpty(last) or state.sCount[last] < state.blkIndent:
            break
        source, closing, after = _line(state, last).partition(_CLOSINGS[opening])
        lines.append(source)
    state.line = last + 1 if closing else last
    token = state.push(BLOCK, "", 0)
    token.content, token.markup = "\n".join(lines), opening
    token.info = after.rstrip() if closing else "open"
    token.map = [line, state.line]
    return True


def _line(state: StateBlock, line: int) -> str:
    return state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]]
