"""Parses Markdown to blocks: CommonMark with tables, strikethrough and formulas.

The source is untrusted, but already sanitised: HTML stays text, a link always shows its address,
and what HTML entities decode to is sanitised here. Reference definitions stay text too: they would
be invisible, and would change lines far above them. A single newline breaks the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from glmtui.sanitize import sanitize, sanitize_line
from glmtui.ui.markdown.blocks import (
    Alignment,
    Block,
    Cell,
    Code,
    Formula,
    Heading,
    Item,
    Paragraph,
    Quote,
    Rule,
    Table,
    lay_out,
)
from glmtui.ui.markdown.formulas import FORMULA_BLOCK, INLINE_FORMULA, add_formulas, formula_text
from glmtui.ui.markdown.styled_text import LINK_PREFIX, Line, Span, wrap
from glmtui.ui.markdown.time_limit import TimeLimitExceeded, call_with_time_limit

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

MAX_SECONDS = 0.5
"""Time limit for the Markdown of one message. The parser needs minutes for some texts of 100 kB;
an ordinary message takes a few milliseconds."""

_MAX_DEPTH = 40
"""Levels of nesting; a block with more is shown as its source. Bounds the recursion."""

_LISTS = ("bullet_list_open", "bullet_list_close", "ordered_list_open", "ordered_list_close")
_INLINE_STYLES = {"strong_open": "strong", "em_open": "emphasis", "s_open": "strike"}
_ALIGNMENTS: dict[str, Alignment] = {"text-align:center": "center", "text-align:right": "right"}
_LINE_BREAK_TAG = re.compile(r"<br ?/?>", re.IGNORECASE)

_ADDRESS = re.compile(r"(?:https?://|mailto:)[!-~]{1,2000}", re.IGNORECASE)


class SourceBlock(NamedTuple):
    """A top-level block, or an item of a top-level list, and its place in the source.

    Attributes:
        start, stop: the range of source lines, from 0.
        number: of an item in an ordered list.
        closed: whether it is fenced code with a closing fence.
    """

    block: Block
    start: int
    stop: int
    number: int | None = None
    closed: bool = False


def render(text: str, width: int) -> list[Line]:
    """`text` in lines of at most `width` cells; as plain text if the time limit is exceeded."""
    try:
        return call_with_time_limit(
            MAX_SECONDS, lambda: lay_out([p.block for p in parse(text)], width)
        )
    except TimeLimitExceeded:
        return wrap([Span(text)], width)


def code_blocks(text: str) -> list[Code]:
    """All code blocks in `text`, from the top, also those in lists and quotes.

    Empty if parsing exceeds the time limit; `render` shows such a text as plain text.
    """
    found: list[Code] = []

    def collect(blocks: Sequence[Block]) -> None:
        for block in blocks:
            if isinstance(block, Code):
                found.append(block)
            elif isinstance(block, Item | Quote):
                collect(block.blocks)

    try:
        collect([placed.block for placed in call_with_time_limit(MAX_SECONDS, lambda: parse(text))])
    except TimeLimitExceeded:
        return []
    return found


def parse(text: str, *, gap: bool = False, number: int | None = None) -> list[SourceBlock]:
    """Parses `text`.

    Args:
        gap: whether there is an empty line before `text`.
        number: of the first item, if `text` continues an ordered list.
    """
    builder = _BlockBuilder(text.split("\n"), gap)
    found: list[SourceBlock] = []
    group: list[Token] = []  # the tokens of one block
    level = 0
    for token in _parser().parse(text):
        if not group and token.type in _LISTS:
            level = 1 if token.nesting > 0 else 0
            number = _first_number(token) if found or number is None else number
            continue
        group.append(token)
        if token.level == level and token.nesting <= 0:
            start, stop = group[0].map or (0, 0)
            item = number if group[0].type == "list_item_open" else None
            inside = group[0].content.count("\n")
            closed = group[0].type == "fence" and stop - start - 1 > inside
            found.append(SourceBlock(builder.block(group, item), start, stop, item, closed))
            number = None if number is None else number + 1
            group = []
    return found


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    # Imported late: it takes 40 ms.
    from markdown_it import MarkdownIt

    from glmtui.ui.markdown.emphasis import CJKInline

    parser = MarkdownIt()
    parser.inline = CJKInline()
    parser.configure("commonmark", {"html": False, "maxNesting": _MAX_DEPTH + 2})
    return add_formulas(parser.enable(["table", "strikethrough"]).disable("reference"))


def _first_number(token: Token) -> int | None:
    if token.type != "ordered_list_open":
        return None
    return int(token.attrs.get("start", 1))


class _BlockBuilder:
    """Builds blocks from markdown-it's flat list of tokens."""

    def __init__(self, source: Sequence[str], gap: bool) -> None:
        self._source = source
        self._gap = gap

    def block(self, tokens: Sequence[Token], number: int | None) -> Block:
        """The block that consists of all of `tokens`."""
        if max(token.level for token in tokens) > _MAX_DEPTH:
            start, stop = tokens[0].map or (0, 0)
            return Paragraph(self._gap_before(start), (Span("\n".join(self._source[start:stop])),))
        rest = iter(tokens)
        return self._block(next(rest), rest, number)

    def _block(self, token: Token, rest: Iterator[Token], number: int | None) -> Block:
        """The block that `token` opens; consumes its other tokens from `rest`."""
        gap = self._gap_before(token.map[0] if token.map else 0)
        if token.type == "paragraph_open":
            return Paragraph(gap, _inline(rest))
        if token.type == "heading_open":
            return Heading(gap, int(token.tag[1:]), _inline(rest))
        if token.type in ("fence", "code_block"):
            # markdown-it decodes entities in the info string, but not in the code.
            return Code(gap, sanitize_line(token.info), token.content.removesuffix("\n"))
        if token.type == "list_item_open":
            marker = "" if number is None else f"{number}{token.markup}"
            return Item(gap, marker, tuple(self._blocks(rest)))
        if token.type == "blockquote_open":
            return Quote(gap, tuple(self._blocks(rest)))
        if token.type == "table_open":
            return _table(gap, rest)
        if token.type == "hr":
            return Rule(gap)
        if token.type == FORMULA_BLOCK:
            return Formula(gap, formula_text(token))
        raise ValueError(f"unexpected markdown-it token: {token.type}")

    def _blocks(self, tokens: Iterator[Token]) -> Iterator[Block]:
        """The blocks up to the closing token of the enclosing block. A list yields its items."""
        number: int | None = None
        for token in tokens:
            if token.type in _LISTS:
                number = _first_number(token)
            elif token.nesting < 0:
                return
            else:
                yield self._block(token, tokens, number)
                number = None if number is None else number + 1

    def _gap_before(self, line: int) -> bool:
        return self._source[line - 1].strip(" \t>") == "" if line else self._gap


def _table(gap: bool, tokens: Iterator[Token]) -> Table:
    alignments: list[Alignment] = []
    rows: list[tuple[Cell, ...]] = []
    row: list[Cell] = []
    for token in tokens:
        if token.type in ("th_open", "td_open"):
            if token.type == "th_open":
                alignments.append(_ALIGNMENTS.get(str(token.attrs.get("style")), "left"))
            row.append(
                tuple(Span(_LINE_BREAK_TAG.sub("\n", text), s) for text, s in _inline(tokens))
            )
        elif token.type == "tr_close":
            rows.append(tuple(row))
            row = []
        elif token.type == "table_close":
            break
    return Table(gap, tuple(alignments), tuple(rows))


def _inline(tokens: Iterator[Token]) -> Cell:
    """The spans of the next token, an inline token; also consumes the closing token after it."""
    children = next(tokens).children or []
    next(tokens)
    spans: list[Span] = []
    styles: list[str] = []
    links: list[tuple[str, int]] = []  # address, and the start of the link's text in `spans`
    for token in children:
        if token.type == "text":
            # An entity such as "&#27;" has been decoded to a character that is not sanitised yet.
            spans.append(Span(sanitize(token.content), tuple(styles)))
        elif token.type == INLINE_FORMULA:
            spans.append(Span(formula_text(token), (*styles, "math")))
        elif token.type == "code_inline":
            spans.append(Span(token.content, (*styles, "code")))
        elif token.type in ("softbreak", "hardbreak"):
            spans.append(Span("\n", tuple(styles)))
        elif token.type in _INLINE_STYLES:
            styles.append(_INLINE_STYLES[token.type])
        elif token.type == "link_open":
            links.append((str(token.attrs["href"]), len(spans)))
            styles.append("link")
        elif token.type == "link_close":
            styles.pop()
            target, start = links.pop()
            spans += _target_spans(target, "".join(s.text for s in spans[start:]), styles)
            spans[start:] = _as_link(target, spans[start:])
        elif token.type == "image":
            target = str(token.attrs["src"])
            image = [Span(token.content, (*styles, "link"))]
            image += _target_spans(target, token.content, styles)
            spans += _as_link(target, image)
        elif token.nesting < 0:
            styles.pop()
    return tuple(span for span in spans if span.text)


def _as_link(target: str, spans: Sequence[Span]) -> list[Span]:
    """`spans` as a hyperlink, if the address has a scheme that the terminal may open."""
    if not _ADDRESS.fullmatch(target):
        return list(spans)
    return [Span(text, (*styles, LINK_PREFIX + target)) for text, styles in spans]


def _target_spans(target: str, text: str, styles: Sequence[str]) -> list[Span]:
    """The address in parentheses, unless it is the same as the text of the link."""
    if text in (target, unquote(target), target.removeprefix("mailto:")):
        return []
    before = " " if text else ""
    # Entities in the address have been decoded.
    return [Span(f"{before}({sanitize(target)})", (*styles, "target"))]
