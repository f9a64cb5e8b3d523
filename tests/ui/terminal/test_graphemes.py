"""Grapheme clusters: emoji sequences, flags and joiners have the same width on every terminal.

A terminal that counts single characters (as pyte, tmux and xterm do) and one that counts clusters
must agree on every row that is drawn.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from rich.cells import cell_len
from wcwidth import wcwidth

from glmtui.chat import Message
from glmtui.ui.markdown.styled_text import Span, wrap
from glmtui.ui.terminal.graphemes import cell_width, clusters, uniform_width
from support.emulated_terminal import Terminal
from support.transcript_app import TranscriptApp, reply

FAMILY, FLAG, THUMB, HEART = "👨\u200d👩\u200d👧", "🇨🇳", "👍\U0001f3fd", "❤\ufe0f"
WHOLE = [
    *(
        FAMILY,
        FLAG,
        THUMB,
        HEART,
        "1\ufe0f\u20e3",
        "👩🏽\u200d💻",
        "🏳\ufe0f\u200d🌈",
        "क\u094d\u200dष",
    ),
    *("🏴\U000e0067\U000e0062\U000e007f", "你好", "e\u0301", "word", " ", "，", "می\u200cخواهم"),
]
BROKEN = ["🇨", "\u200d", "\ufe0f", "\U0001f3fd", "👨\u200d", "\u0301"]


def sentence(seed: int, count: int = 40, parts: Sequence[str] = (*WHOLE, *BROKEN)) -> str:
    return "".join(random.Random(seed).choices(parts, k=count))


def by_character(text: str) -> int:
    """Cells as a terminal counts them that knows no graphemes."""
    return sum(map(wcwidth, text))


@pytest.mark.parametrize("seed", range(50))
def test_drawn_text_is_as_wide_by_characters_as_by_graphemes(seed: int) -> None:
    text = sentence(seed)
    drawn = uniform_width(text)
    assert by_character(drawn) == cell_len(drawn) == cell_width(text)
    assert uniform_width(drawn) == drawn


@pytest.mark.parametrize("seed", range(50))
@pytest.mark.parametrize("width", [2, 7, 20])
def test_lines_break_between_grapheme_clusters(seed: int, width: int) -> None:
    text = sentence(seed, parts=WHOLE).replace(" ", "")
    lines = wrap([Span(text)], width)
    assert "".join(line.text for line in lines) == text
    ends = {end for _start, end, _size in clusters(text)}
    at = 0
    for line in lines:
        assert cell_width(line.text) <= width
        at += len(line.text)
        assert at in ends


@pytest.mark.parametrize("width", [24, 41, 80])
async def test_every_row_ends_at_the_right_edge(width: int) -> None:
    app = TranscriptApp()
    text = "\n\n".join(sentence(seed, 25) for seed in range(12))
    table = f"| a | b |\n|---|---|\n| {FAMILY}{FLAG} | {THUMB} |\n| `{HEART}` | x |\n"
    async with app.run_test(size=(width, 120)) as pilot:
        app.transcript.show([Message("user", text, id="q"), reply(f"{text}\n\n{table}")])
        await pilot.pause()
        for y in range(app.transcript.size.height):
            strip = app.transcript.render_line(y)
            assert strip.cell_length == app.transcript.size.width
            assert by_character(strip.text) == strip.cell_length, strip.text


async def test_a_cluster_across_two_styles_is_drawn_once() -> None:
    app = TranscriptApp()
    async with app.run_test(size=(40, 8)) as pilot:
        app.transcript.show([reply("👨**\u200d👩**!")])
        await pilot.pause()
        assert "  👨!" in app.rows


def test_a_terminal_keeps_its_columns(start: Callable[..., Terminal]) -> None:
    rows = [FAMILY, FLAG, THUMB, HEART, "1\ufe0f\u20e3", "你"]
    table = "| a | b |\n|---|---|\n" + "".join(f"| {row} x | END |\n" for row in rows)
    terminal = start(f"engine.pieces = [{table!r}]")
    terminal.press(f"{FAMILY}{FLAG}{THUMB} END\r".encode())
    terminal.wait_until(lambda: "\n".join(terminal.screen.display).count("END") == len(rows) + 1)
    columns = [
        x
        for y in range(24)
        for x in range(78)
        if "".join(terminal.screen.buffer[y][x + i].data for i in range(3)) == "END"
    ]
    assert columns[0] == 2 + 6 + 1  # after the bar, three characters and a space
    assert len(columns) == len(rows) + 1
    assert len(set(columns[1:])) == 1


def test_flags_beside_each_other_are_two() -> None:
    assert clusters("🇦🇧🇨🇩") == [(0, 2, 2), (2, 4, 2)]
