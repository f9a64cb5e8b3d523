"""Streamed Markdown: equal to parsed Markdown, for any pieces, at a constant cost per token."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import glmtui.ui.markdown.stream
from glmtui.ui.markdown.document import SourceBlock, parse, render
from glmtui.ui.markdown.stream import MarkdownStream

INLINE = ("a", "word", "你好，", "。", "**", "*", "`", "[t](http://e.com)", "<b>", "\\", "&amp;")
STARTS = ("- ", "* ", "+ ", "1. ", "2. ", "10) ", "> ", "# ", "```", "```python\n", "~~~", "``` |")
LINES = ("\n", "\n", "\n\n", "---", "===", "- - -", "| a | b |\n|---|---|\n", "|--|", "| 1 | 2 |")
MATH = (
    "$x^2$",
    "$",
    "$$",
    "$$\n",
    "\\(",
    "\\)",
    "\\[",
    "\n\\]\n",
    "\\frac{1}{2}",
    "5",
    "{",
    "}",
    "_",
)
REST = ("|", "=", "-", "|-", " ", "  ", "   ", "    ", "\t", "[x]: http://e.com", "[x]", "</div>")
PIECES = st.lists(st.sampled_from(INLINE + STARTS + LINES + REST + MATH), max_size=50)

LINE = st.builds(
    "{}{}{}".format,
    st.integers(0, 7).map(" ".__mul__),
    st.sampled_from(
        ["- ", "* ", "1. ", "2) ", "> ", "", "```", "~~~", "# ", "| a |", "|--|", "-", "$$", "\\["]
    ),
    st.sampled_from(
        ["", "a", "b c", "- x", "> y", "```", "---", "===", "    code", "$$", "$$x$$", "\\]"]
    ),
)


def stream_of(pieces: list[str], width: int) -> MarkdownStream:
    """All of `pieces` fed, each checked to leave alone the lines it said it would."""
    stream = MarkdownStream(width)
    before = list(stream.lines)
    for piece in pieces:
        kept = stream.feed(piece)
        assert stream.lines[:kept] == before[:kept]
        before = list(stream.lines)
    kept = stream.finish()
    assert stream.lines[:kept] == before[:kept]
    return stream


@settings(deadline=None)
@given(PIECES, st.integers(2, 40))
def test_streamed_lines_equal_parsed_lines(pieces: list[str], width: int) -> None:
    assert stream_of(pieces, width).lines == render("".join(pieces), width)


@settings(deadline=None)
@given(st.lists(LINE, max_size=12).map("\n".join), st.integers(1, 7))
def test_lists_quotes_and_fences_at_any_indent(text: str, size: int) -> None:
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    assert stream_of(pieces, 30).lines == render(text, 30)


SAMPLE = """\
# Title

Intro **bold** and `code`:
1. one
2. two

   more of two
3. three
   - nested

> quote
goes on

```python
def f(x):
    '''doc'''
```
after

| a | b |
|---|--:|
| 1 | 你好 |
| 2 | x |

````
```
````
  ```
  open
 fence
"""


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_while_streaming_everything_unambiguous_is_shown(size: int) -> None:
    stream = MarkdownStream(30)
    for end in range(size, len(SAMPLE) + size, size):
        stream.feed(SAMPLE[end - size : end])
        text = SAMPLE[:end]
        if text.endswith("\n"):
            parsed = render(text, 30)
            assert [line.text for line in stream.lines] == [line.text for line in parsed]


def test_an_ambiguous_marker_is_not_shown_yet() -> None:
    stream = MarkdownStream(30)
    stream.feed("Here they are:\n-")
    assert [line.text for line in stream.lines] == ["Here they are:"]
    assert stream.lines[0].spans[0].styles == ()  # not the heading that "-" could make of it
    stream.feed(" one")
    assert [line.text for line in stream.lines] == ["Here they are:", "• one"]


def prose(tokens: int) -> list[str]:
    section = (
        "## A head\n\nSome words of **bold** text , and more . \n\n- an item\n- two\n\n| a |\n"
    )
    words = [word + " " for word in section.replace("|\n", "|\n|---|\n| b |\n\n").split(" ")]
    return [words[i % len(words)] for i in range(tokens)]


def listing(tokens: int) -> list[str]:
    return [f"{i}. an item of the list\n" for i in range(tokens // 5)]


def code(tokens: int) -> list[str]:
    return ["```python\n", *("    x = f ( y )\n" for _ in range(tokens // 7))]


@pytest.mark.parametrize("reply", [prose, listing, code])
def test_a_token_costs_the_same_early_and_late(reply, monkeypatch: pytest.MonkeyPatch) -> None:
    work = 0

    def counted_parse(text: str, **where) -> list[SourceBlock]:
        nonlocal work
        work += len(text)
        return parse(text, **where)

    def counted_code(info: str, text: str, width: int):
        nonlocal work
        work += len(text)
        return draw(info, text, width)

    draw = glmtui.ui.markdown.stream.code_lines
    monkeypatch.setattr(glmtui.ui.markdown.stream, "parse", counted_parse)
    monkeypatch.setattr(glmtui.ui.markdown.stream, "code_lines", counted_code)
    stream = MarkdownStream(76)
    costs = []
    for piece in reply(4000):
        before = work
        stream.feed(piece)
        costs.append(work - before)
    half = len(costs) // 2
    assert sum(costs[half:]) <= 1.1 * sum(costs[:half])
    assert max(costs) < 2000


def test_a_long_reply_streamed_by_token_equals_the_parsed_one() -> None:
    pieces = prose(3000) + code(3000) + ["```\n"] + listing(3000)
    assert stream_of(pieces, 76).lines == render("".join(pieces), 76)
