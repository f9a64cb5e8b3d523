"""What reaches the terminal: nothing that acts, nothing that hides, nothing lost."""

from __future__ import annotations

import sys
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from glmtui.sanitize import _UNSAFE, MAX_MARKS, StreamSanitizer, sanitize, sanitize_line
from glmtui.ui.terminal.graphemes import clusters

NASTY = (
    "\x00\x07\x08\x0b\x0c\r\x1b\x7f\x85\x9b\xad\u061c\u200b\u200e\u2028\u202e\u2066\ufeff\U000e0041"
)
TEXTS = st.text(st.one_of(st.sampled_from("ab \n\t\r[" + NASTY), st.characters()))


@given(TEXTS)
def test_nothing_left_acts_on_a_terminal(text: str) -> None:
    for char in sanitize(text):
        assert char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs")
        assert unicodedata.bidirectional(char) not in (
            *("LRE", "RLE", "LRO", "RLO", "PDF"),
            *("LRI", "RLI", "FSI", "PDI"),
        )
    sanitize(text).encode()  # a lone surrogate would raise


@given(TEXTS)
def test_cleaning_twice_changes_nothing(text: str) -> None:
    assert sanitize(sanitize(text)) == sanitize(text)


@given(TEXTS)
def test_nothing_is_dropped(text: str) -> None:
    assert len(sanitize(text)) == len(text) - text.count("\r\n")


@given(TEXTS, TEXTS)
def test_pieces_cleaned_apart_are_never_worse_than_together(first: str, second: str) -> None:
    apart = sanitize(first) + sanitize(second)
    assert sanitize(apart) == apart
    if not (first.endswith("\r") and second.startswith("\n")):
        assert apart == sanitize(first + second)


@given(st.lists(TEXTS))
def test_a_stream_gives_what_the_whole_gives(pieces: list[str]) -> None:
    stream = StreamSanitizer()
    shown = "".join(map(stream.feed, pieces)) + stream.flush()
    assert shown == sanitize("".join(pieces))


MARKS = "\u0301\u0e34\u1161\u200d\ufe0f\U0001f3fd\u0903"
RUNS = st.lists(
    st.tuples(
        st.sampled_from([*MARKS, "a", "क", "👩", "\ufffd", "\r", "\n", "—"]), st.integers(1, 70)
    )
).map(lambda parts: "".join(char * count for char, count in parts))


@given(RUNS)
@example("a" + "\u0301" * 100)
@example("👩\u200d" * 40)
@example("\u1100" + "\u1161" * 31)
@example("\u200d\u0301" * 31)
def test_no_character_is_drawn_from_more_than_a_few_dozen(text: str) -> None:
    shown = sanitize(text)
    assert sanitize(shown) == shown
    assert len(shown) == len(text) - text.count("\r\n")
    for line in shown.split("\n"):
        for start, end, _ in clusters(line):
            assert end - start <= MAX_MARKS + 2  # with the first, and one that a joiner joins


@given(RUNS, st.lists(st.integers(0, 500)))
def test_marks_are_counted_over_the_pieces_of_a_stream(text: str, cuts: list[int]) -> None:
    stream, at = StreamSanitizer(), sorted(cuts)
    pieces = [text[a:b] for a, b in pairwise([0, *at, max([len(text), *at])])]
    assert "".join(pieces) == text
    assert "".join(map(stream.feed, pieces)) + stream.flush() == sanitize(text)


def test_marks_that_a_language_needs_stay() -> None:
    for text in (
        "שָׁלוֹם עֲלֵיכֶם",
        "བསྒྲུབས",
        "क्ष्म्य",
        "e" + "\u0301" * MAX_MARKS,
        "👨🏽\u200d❤\ufe0f\u200d💋\u200d👨🏽",
    ):
        assert sanitize(text) == text


@given(TEXTS)
def test_one_line_is_one_line(text: str) -> None:
    assert len(sanitize_line(text).splitlines()) <= 1
    assert "\t" not in sanitize_line(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]52;c;UFdO\x07", "␛[2J␛]52;c;UFdO␇"),
        ("\x9b31m", "�31m"),
        ("cr\rlf", "cr␍lf"),
        ("dos\r\nunix\n", "dos\nunix\n"),
        ("if access != '\u202e\u2066'", "if access != '��'"),
        ("del\x7f nul\x00", "del␡ nul␀"),
        ("seen\U000e0068\U000e0069", "seen��"),
        ("a\u2028b", "a\nb"),
    ],
)
def test_what_hides_is_shown(text: str, shown: str) -> None:
    assert sanitize(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "你好，世界！",
        "👩‍👩‍👧‍👦 🇨🇳 👍🏽 ❤️",
        "é à한글 ＡＢＣ",
        "می‌خواهم",
        "क्‍ष",
        "\ttabs\nand lines\n",
        "[bold]x[/]",
    ],
)
def test_honest_text_stays(text: str) -> None:
    assert sanitize(text) == text


def test_a_title_loses_its_breaks_only() -> None:
    assert sanitize_line("  第一行\r\n\t second\x1b ") == "第一行 second␛"


def test_what_python_can_print_hides_nothing() -> None:
    """`sanitize` and `sanitize_line` look no further at such text."""
    for char in map(chr, range(sys.maxunicode + 1)):
        if char.isprintable():
            assert not _UNSAFE.match(char)
            assert not char.isspace() or char == " "
