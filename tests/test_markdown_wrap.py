"""Lines of a width: nothing lost, nothing too wide, no line begun with a comma."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len, split_graphemes

from glmtui.ui.wrap import (
    CHROME,
    INDENT,
    UNBROKEN,
    Line,
    Span,
    cut,
    marked,
    plain_text,
    prefixed,
    wrap,
)

CLOSING, OPENING = "，。、；：？！）》」”…", "（《「“"
WIDTHS = st.integers(2, 40)
TEXTS = st.text(
    st.sampled_from(f"abc .,-(){CLOSING}{OPENING}你好显存ーっ한글é\u0301👩\u200d🍁👍🏽🇨🇳️️\n")
)


def wrapped(text: str, width: int) -> list[str]:
    return [line.text for line in wrap([Span(text)], width)]


@given(TEXTS, WIDTHS)
def test_no_line_is_wider_than_the_width(text: str, width: int) -> None:
    for line in wrapped(text, width):
        # one grapheme alone may be wider than a very narrow line
        assert cell_len(line) <= width or len(split_graphemes(line)[0]) == 1


@given(TEXTS, WIDTHS)
def test_joined_again_the_lines_are_the_text(text: str, width: int) -> None:
    joined = plain_text(wrap([Span(text)], width))
    assert [row.rstrip() for row in joined.split("\n")] == [
        row.rstrip() for row in text.split("\n")
    ]


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


@given(st.lists(st.sampled_from(["显存", "占", "GPU", "12.3 GB", *CLOSING]), min_size=1), WIDTHS)
def test_closing_punctuation_starts_no_line(words: list[str], width: int) -> None:
    text = "随" + "".join(
        word for i, word in enumerate(words) if word not in CLOSING or words[i - 1] not in CLOSING
    )
    if width >= 6:
        assert not any(line[0] in CLOSING for line in wrapped(text, width)[1:])


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
        ("👩‍🍁👩‍🍁", 3, ["👩‍🍁", "👩‍🍁"]),
        ("", 5, [""]),
    ],
)
def test_where_lines_break(text: str, width: int, lines: list[str]) -> None:
    assert wrapped(text, width) == lines


def test_copied_text_has_no_chrome_and_no_breaks() -> None:
    bar, indent = Span("▎ ", (CHROME,)), Span("  ", (INDENT,))
    quote = prefixed(wrap([Span("one two three")], 8), bar, bar)
    item = prefixed(wrap([Span("four five")], 5), Span("• "), indent)
    label = Line((Span(" python", (CHROME,)),))
    assert [line.text for line in quote] == ["▎ one two", "▎ three"]
    assert plain_text([*quote, *item, label]) == "one two three\n• four five"


def test_an_indent_is_copied_where_a_line_of_the_text_begins() -> None:
    indent = Span("  ", (INDENT,))
    assert plain_text(prefixed(wrap([Span("a\nb")], 9), indent, indent)) == "  a\n  b"


@given(TEXTS, st.integers(0, 30), st.integers(0, 30))
def test_a_mark_changes_no_text(text: str, start: int, end: int) -> None:
    start, end = sorted((start, end))
    line = wrap([Span(text)], UNBROKEN)[0]
    shown = marked(line, start, end, "m")
    assert shown.text == line.text
    assert "".join(t for t, s in shown.spans if "m" in s) == line.text[start:end]
    assert "".join(t for t, _ in cut(line.spans, start, end)) == line.text[start:end]
