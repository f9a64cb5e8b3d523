"""Wrapping: nothing is lost or too wide, and punctuation stays with its word."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len, split_graphemes

from glmtui.ui.markdown.styled_text import (
    CHROME,
    INDENT,
    UNLIMITED_WIDTH,
    Line,
    Span,
    plain_text,
    slice_spans,
    with_prefix,
    with_style,
    wrap,
)

CLOSING, OPENING = "，。、；：？！）》」”…", "（《「“"
WIDTHS = st.integers(2, 40)
TEXTS = st.text(
    st.sampled_from(f"abc   .,-(){CLOSING}{OPENING}你好显存ーっ한글é\u0301👩\u200d🍁👍🏽🇨🇳️️\n")
)


def wrapped(text: str, width: int) -> list[str]:
    return [line.text for line in wrap([Span(text)], width)]


@given(TEXTS, WIDTHS)
def test_no_line_is_wider_than_the_width(text: str, width: int) -> None:
    for line in wrapped(text, width):
        # one grapheme alone may be wider than a very narrow line
        assert cell_len(line) <= width or len(split_graphemes(line)[0]) == 1


@given(TEXTS, WIDTHS)
@example(" 、", 2)
@example("     ", 2)
@example("a     ", 4)
@example("    averyverylongword", 8)
@example("（    ", 3)
@example("字    ，", 3)
def test_joined_lines_are_the_text(text: str, width: int) -> None:
    """To the last space."""
    lines = wrap([Span(text)], width)
    assert plain_text(lines) == text
    assert sum(line.text_length for line in lines) == len(text.replace("\n", ""))


@given(st.lists(st.tuples(TEXTS, st.sampled_from(["a", "b", ""]))), WIDTHS)
def test_every_character_keeps_its_style(parts: list[tuple[str, str]], width: int) -> None:
    spans = [Span(text, (style,)) for text, style in parts]
    kept = [
        (char, span.styles)
        for line in wrap(spans, width)
        for span in line.spans
        for char in span.text
    ]
    sent = [(char, styles) for text, styles in spans for char in text if char != "\n"]
    assert [k for k in kept if k[0] != " "] == [s for s in sent if s[0] != " "]


def could_have_stayed(text: str, mark: int, width: int) -> bool:
    """Whether a line could end earlier, so that the mark at this place does not begin the next."""
    place = mark
    while place > 0:
        place -= 1
        before = text[:place].rstrip(" ")[-1:]
        if text[place] != " " and text[place] not in f"{CLOSING}.,-)" and before not in OPENING:
            break
    return place > 0 and cell_len(text[place : mark + 1]) <= width


@given(st.lists(st.sampled_from(["显存", "占", "GPU", "12.3 GB", " ", *CLOSING, *OPENING])), WIDTHS)
@example(["随", "GPU", "GPU", "，"], 6)
@example(["GPU", "GPU", " ", "，"], 6)
@example(["占", " ", "，"], 4)
def test_closing_punctuation_starts_no_line_if_avoidable(words: list[str], width: int) -> None:
    text, at = "".join(words), 0
    for line in wrap([Span(text)], width):
        if at and line.text and line.text[0] in CLOSING:
            assert not could_have_stayed(text, at, width)
        at += line.text_length


@given(st.lists(st.sampled_from(["显存", "占", *OPENING]), min_size=1), st.integers(6, 40))
def test_opening_punctuation_ends_no_line(words: list[str], width: int) -> None:
    text = "".join(
        word for i, word in enumerate(words) if word not in OPENING or words[i - 1] not in OPENING
    )
    assert not any(line[-1] in OPENING for line in wrapped(text + "随", width)[:-1])


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("the model keeps a cache", 11, ["the model", "keeps a", "cache"]),
        ("显存占用随着上下文", 8, ["显存占用", "随着上下", "文"]),
        ("显存（约12.3 GB）。", 10, ["显存（约", "12.3", "GB）。"]),
        ("用“引号”好", 6, ["用“引", "号”好"]),
        ("混排mixed文字", 6, ["混排", "mixed", "文字"]),
        ("averyverylongword x", 8, ["averyver", "ylongwor", "d x"]),
        ("a https://example.com/path", 12, ["a", "https://exam", "ple.com/path"]),
        ("    indented text", 12, ["    indented", "text"]),
        ("一\t二", 20, ["一    二"]),
        ("一\n\n二", 20, ["一", "", "二"]),
        ("随GPUGPU，", 6, ["随", "GPUGP", "U，"]),
        ("占 GPUGPU ，", 6, ["占", "GPUGP", "U ，"]),
        ("他说 “ 你好 ”", 7, ["他说", "“ 你", "好 ”"]),
        ("，，，，", 4, ["，，", "，，"]),
        (" 、", 2, [" ", "、"]),
        ("  averyverylongword", 8, ["  averyv", "erylongw", "ord"]),
        ("      short words", 8, ["      ", "short", "words"]),
        ("averylong, x", 9, ["averylon", "g, x"]),
        ("👩‍🍁👩‍🍁", 3, ["👩‍🍁", "👩‍🍁"]),
        ("", 5, [""]),
    ],
)
def test_where_lines_break(text: str, width: int, lines: list[str]) -> None:
    assert wrapped(text, width) == lines


def test_copied_text_has_no_chrome_and_no_breaks() -> None:
    bar, indent = Span("▎ ", (CHROME,)), Span("  ", (INDENT,))
    quote = with_prefix(wrap([Span("one two three")], 8), bar, bar)
    item = with_prefix(wrap([Span("four five")], 5), Span("• "), indent)
    label = Line((Span(" python", (CHROME,)),))
    assert [line.text for line in quote] == ["▎ one two", "▎ three"]
    assert plain_text([*quote, *item, label]) == "one two three\n• four five"


def test_an_indent_is_copied_only_at_the_start_of_a_text_line() -> None:
    indent = Span("  ", (INDENT,))
    assert plain_text(with_prefix(wrap([Span("a\nb")], 9), indent, indent)) == "  a\n  b"


@given(TEXTS, st.integers(0, 30), st.integers(0, 30))
def test_adding_a_style_changes_no_text(text: str, start: int, end: int) -> None:
    start, end = sorted((start, end))
    line = wrap([Span(text)], UNLIMITED_WIDTH)[0]
    shown = with_style(line, start, end, "m")
    assert shown.text == line.text
    assert "".join(t for t, s in shown.spans if "m" in s) == line.text[start:end]
    assert "".join(t for t, _ in slice_spans(line.spans, start, end)) == line.text[start:end]
