"""Markdown to lines: CommonMark with tables, strikethrough and formulas, whole or while written.

The source is untrusted: HTML stays text, a link always shows where it leads, and characters that
entities smuggle in are made visible. Reference definitions stay text too: they would vanish from
sight, and change lines far above them. A single newline breaks the line, as models mean it.
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
from glmtui.ui.markdown.formulas import BLOCK, INLINE, add_formulas, shown
from glmtui.ui.markdown.styled_text import LEADS_TO, Line, Span, wrap
from glmtui.ui.markdown.time_limit import OutOfTime, within

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

MOST_SECONDS = 0.5
"""For the Markdown of one message; the parser takes minutes for 100 kB of some texts."""

_DEEPEST = 40
"""Levels of nesting that are drawn; what goes deeper is shown as its source."""

_LISTS = ("bullet_list_open", "bullet_list_close", "ordered_list_open", "ordered_list_close")
_INLINE_STYLES = {"strong_open": "strong", "em_open": "emphasis", "s_open": "strike"}
_ALIGNMENTS: dict[str, Alignment] = {"text-align:center": "center", "text-align:right": "right"}
_LINE_BREAK_TAG = re.compile(r"<br ?/?>", re.IGNORECASE)

_ADDRESS = re.compile(r"(?:https?://|mailto:)[!-~]{1,2000}", re.IGNORECASE)


class Placed(NamedTuple):
    """A top-level block, or an item of a top-level list, and the source lines it came from.

    Attributes:
        number: of an item of an ordered list.
        closed: whether it is fenced code that has its closing fence.
    """

    block: Block
    start: int
    stop: int
    number: int | None = None
    closed: bool = False


def render(text: str, width: int) -> list[Line]:
    """`text` in lines of at most `width` cells; as it stands, if that takes too long."""
    try:
        return within(MOST_SECONDS, lambda: lay_out([p.block for p in parse(text)], width))
    except OutOfTime:
        return wrap([Span(sanitize(text))], width)


def code_blocks(text: str) -> list[Code]:
    """The blocks of code in `text`, from the top, also those in lists and quotes.

    None of a text that takes too long to parse, which is not shown as Markdown either.
    """
    found: list[Code] = []

    def look(blocks: Sequence[Block]) -> None:
        for block in blocks:
            if isinstance(block, Code):
                found.append(block)
            elif isinstance(block, Item | Quote):
                look(block.blocks)

    try:
        look([placed.block for placed in within(MOST_SECONDS, lambda: parse(text))])
    except OutOfTime:
        return []
    return found


def parse(text: str, *, gap: bool = False, number: int | None = None) -> list[Placed]:
    """The blocks of `text`.

    Args:
        gap: whether an empty line came before `text`.
        number: of its first item, where `text` goes on with an ordered list.
    """
    reader = _Reader(text.split("\n"), gap)
    found: list[Placed] = []
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
            found.append(Placed(reader.block(group, item), start, stop, item, closed))
            number = None if number is None else number + 1
            group = []
    return found


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    # Imported here because it would delay the start of the program by 40 ms.
    from markdown_it import MarkdownIt

    from glmtui.ui.markdown.emphasis import CJKInline

    parser = MarkdownIt()
    parser.inline = CJKInline()
    parser.configure("commonmark", {"html": False, "maxNesting": _DEEPEST + 2})
    return add_formulas(parser.enable(["table", "strikethrough"]).disable("reference"))


def _first_number(token: Token) -> int | None:
    if token.type != "ordered_list_open":
        return None
    return int(token.attrs.get("start", 1))


class _Reader:
    """Makes blocks of markdown-it's flat tokens."""

    def __init__(self, source: Sequence[str], gap: bool) -> None:
        self._source = source
        self._gap = gap

    def block(self, tokens: Sequence[Token], number: int | None) -> Block:
        """One block of all its tokens."""
        if max(token.level for token in tokens) > _DEEPEST:
            start, stop = tokens[0].map or (0, 0)
            return Paragraph(self._gap_before(start), (Span("\n".join(self._source[start:stop])),))
        rest = iter(tokens)
        return self._block(next(rest), rest, number)

    def _block(self, token: Token, rest: Iterator[Token], number: int | None) -> Block:
        """The block that `token` opens; takes its other tokens from `rest`."""
        gap = self._gap_before(token.map[0] if token.map else 0)
        if token.type == "paragraph_open":
            return Paragraph(gap, _inline(rest))
        if token.type == "heading_open":
            return Heading(gap, int(token.tag[1:]), _inline(rest))
        if token.type in ("fence", "code_block"):
            return Code(gap, sanitize_line(token.info), sanitize(token.content).removesuffix("\n"))
        if token.type == "list_item_open":
            marker = "" if number is None else f"{number}{token.markup}"
            return Item(gap, marker, tuple(self._blocks(rest)))
        if token.type == "blockquote_open":
            return Quote(gap, tuple(self._blocks(rest)))
        if token.type == "table_open":
            return _table(gap, rest)
        if token.type == "hr":
            return Rule(gap)
        if token.type == BLOCK:
            return Formula(gap, shown(token))
        raise ValueError(f"markdown-it made a {token.type} token, which no rule in use makes")

    def _blocks(self, tokens: Iterator[Token]) -> Iterator[Block]:
        """The blocks up to the token that closes the one around them; lists give their items."""
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
    """The spans of the inline token that comes next; takes the closing token after it too."""
    children = next(tokens).children or []
    next(tokens)
    spans: list[Span] = []
    styles: list[str] = []
    links: list[tuple[str, int]] = []  # target, and where its text starts in `spans`
    for token in children:
        if token.type == "text":
            spans.append(Span(sanitize(token.content), tuple(styles)))
        elif token.type == INLINE:
            spans.append(Span(shown(token), (*styles, "math")))
        elif token.type == "code_inline":
            spans.append(Span(sanitize(token.content), (*styles, "code")))
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
            spans += _target(target, "".join(s.text for s in spans[start:]), styles)
            spans[start:] = _leading_to(target, spans[start:])
        elif token.type == "image":
            target = str(token.attrs["src"])
            image = [Span(sanitize(token.content), (*styles, "link"))]
            image += _target(target, token.content, styles)
            spans += _leading_to(target, image)
        elif token.nesting < 0:
            styles.pop()
    return tuple(span for span in spans if span.text)


def _leading_to(target: str, spans: Sequence[Span]) -> list[Span]:
    """`spans` as a link, if the address is of a kind that a terminal may be given."""
    if not _ADDRESS.fullmatch(target):
        return list(spans)
    return [Span(text, (*styles, LEADS_TO + target)) for text, styles in spans]


def _target(target: str, shown: str, styles: Sequence[str]) -> list[Span]:
    """Where a link leads, unless that is what it says."""
    if shown in (target, unquote(target), target.removeprefix("mailto:")):
        return []
    before = " " if shown else ""
    return [Span(f"{before}({sanitize(target)})", (*styles, "target"))]
