r"""Finds formulas in Markdown: rules for markdown-it, which has none.

``$...$`` and ``\(...\)`` are inline; ``$$...$$`` and ``\[...\]`` may also be blocks. Prices as in
"$5 and $6" are not formulas. Whether a line opens a block depends on that line alone, so that in a
streamed text complete lines do not change their meaning.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from glmtui.sanitize import sanitize
from glmtui.ui.markdown.latex import MAX_FORMULA_LENGTH, unicode_math

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token

INLINE_FORMULA, FORMULA_BLOCK = "formula_inline", "formula_block"
_CLOSING = {"$$": "$$", r"\[": r"\]", "$": "$", r"\(": r"\)"}

_FORMULA = re.compile(
    rf"(?P<open>\$\$)(?P<in>(?:\\.|[^\\$]){{1,{MAX_FORMULA_LENGTH}}}?)\$\$"
    rf"|(?P<open2>\$)(?![\s$])(?P<in2>(?:\\.|[^\\$`]){{1,{MAX_FORMULA_LENGTH}}}?)(?<!\s)\$(?![0-9A-Za-z$])"
    rf"|(?P<open3>\\\()(?P<in3>.{{1,{MAX_FORMULA_LENGTH}}}?)\\\)"
    rf"|(?P<open4>\\\[)(?P<in4>.{{1,{MAX_FORMULA_LENGTH}}}?)\\\]",
    re.DOTALL,
)
_MATH_SIGN = re.compile(r"[\\^_=]")
_WORD = re.compile(r"[A-Za-z]{2,}")


def add_formulas(parser: MarkdownIt) -> MarkdownIt:
    """Adds rules to `parser` that produce tokens of type `INLINE_FORMULA` and `FORMULA_BLOCK`."""
    parser.inline.ruler.before("escape", "formula", _inline)
    interrupts = ["paragraph", "reference", "blockquote", "list"]  # as a fence does
    parser.block.ruler.before("fence", "formula", _block, {"alt": interrupts})
    return parser


def formula_text(token: Token) -> str:
    """The formula of a token in Unicode, or its source if that is impossible."""
    source = token.content
    if token.info == "open":
        return token.markup + source
    # Nested accents make more combining marks than the sanitised source has.
    converted = sanitize(unicode_math(source) or "")
    return (converted or token.markup + source + _CLOSING[token.markup]) + token.info


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
        token = state.push(INLINE_FORMULA, "", 0)
        token.content, token.markup = source, opening
    state.pos = found.end()
    return True


def _is_word(char: str) -> bool:
    return char.isascii() and char.isalnum()


def _is_formula(source: str) -> bool:
    """Whether this is a formula, not the words between two prices."""
    return (
        bool(_MATH_SIGN.search(source)) or not re.search(r"\s", source) or not _WORD.search(source)
    )


def _block(state: StateBlock, line: int, end: int, silent: bool) -> bool:
    if state.is_code_block(line):
        return False
    text = _source_line(state, line)
    opening = text[:2]
    if opening not in ("$$", r"\["):
        return False
    source, closing, after = text[2:].partition(_CLOSING[opening])
    if closing and (after.strip(" .,;:。，；") or not source.strip()):
        return False  # a line of text that begins with a formula
    if silent:
        return True
    last, lines = line, [source]
    while not closing:
        last += 1
        if last >= end or state.isEmpty(last) or state.sCount[last] < state.blkIndent:
            break
        source, closing, after = _source_line(state, last).partition(_CLOSING[opening])
        lines.append(source)
    state.line = last + 1 if closing else last
    token = state.push(FORMULA_BLOCK, "", 0)
    token.content, token.markup = "\n".join(lines), opening
    token.info = after.rstrip() if closing else "open"
    token.map = [line, state.line]
    return True


def _source_line(state: StateBlock, line: int) -> str:
    return state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]]
