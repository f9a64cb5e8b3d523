"""The prompt on an emulated terminal, with wide characters, combining marks and emoji."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rich.cells import cell_len

from glmtui.ui.terminal import graphemes
from support.emulated_terminal import Terminal

FAMILY, FLAG, THUMB = "👨\u200d👩\u200d👧", "🇨🇳", "👍\U0001f3fd"
FIRST = 2  # the column where the text begins


def places(line: str) -> list[int]:
    """Where the cursor may stand, on its way to the right."""
    found = [0]
    while found[-1] < len(line):
        found.append(graphemes.next_boundary(line, found[-1]))
    return found


@pytest.mark.parametrize(
    "parts",
    [
        ["你", "好", "a"],
        ["e\u0301", "x\u0323\u0302", "y"],
        [FAMILY, "x", FAMILY],
        [FLAG, "🇫🇷", "x", "🇨"],
        [THUMB, "❤\ufe0f", "1\ufe0f\u20e3"],
        ["🏴\U000e0067\U000e0062\U000e007f", "स्", "ते"],
    ],
)
def test_the_cursor_moves_by_grapheme_clusters(parts: list[str]) -> None:
    line = "".join(parts)
    wanted = [sum(map(len, parts[:n])) for n in range(len(parts) + 1)]
    assert places(line) == wanted
    assert [graphemes.previous_boundary(line, at) for at in wanted[1:]] == wanted[:-1]
    assert graphemes.previous_boundary(line, 0) == 0
    assert graphemes.next_boundary(line, len(line)) == len(line)


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("plain 你好 e\u0301", "plain 你好 e\u0301"),
        (f"a{FAMILY}b", "a👨b"),
        (f"{THUMB}{FLAG}", "👍CN"),
        (f"{FLAG}{FLAG}🇨", "CNCNC"),
        ("❤\ufe0f!", "❤ !"),
    ],
)
def test_drawn_text_has_the_same_width_on_every_terminal(text: str, drawn: str) -> None:
    assert graphemes.uniform_width(text) == drawn
    assert cell_len(text) == cell_len(drawn)


TYPED = {
    "你好": 4,
    "한글": 4,
    "e\u0301a": 2,
    "👍x": 3,
    FAMILY + "x": 3,
    THUMB + "x": 3,
    "❤\ufe0fx": 3,
    FLAG + "x": 3,
}
"""What is typed, and the cells it takes."""


def test_the_terminal_cursor_is_after_the_typed_text(start: Callable[..., Terminal]) -> None:
    terminal = start()
    for typed, cells in TYPED.items():
        terminal.press(typed.encode())
        terminal.wait_until(lambda: terminal.screen.cursor.x == FIRST + cells)  # noqa: B023
        row = terminal.screen.cursor.y
        assert terminal.screen.display[row].startswith("▌ ")
        assert not terminal.screen.display[row - 1].strip()
        terminal.press(b"\x03")
        terminal.wait_for_text("Ask anything")


def test_a_character_is_sent_and_deleted_as_a_whole(start: Callable[..., Terminal]) -> None:
    terminal = start()
    terminal.press(f"{FAMILY}می\u200cخواهم{THUMB}e\u0301\x7f\x7f".encode())
    terminal.press(b"\r")
    terminal.wait_for_text("Hello there.")
    assert terminal.saved_messages()[0] == f"{FAMILY}می\u200cخواهم"


def test_a_line_of_wide_characters_wraps_with_its_cursor(start: Callable[..., Terminal]) -> None:
    terminal = start()
    terminal.press(("汉" * 60).encode())
    terminal.wait_until(lambda: sum(row.count("汉") for row in terminal.screen.display) == 60)
    rows = [row for row in terminal.screen.display if "汉" in row]
    assert len(rows) == 2
    terminal.wait_until(lambda: terminal.screen.cursor.x == FIRST + 2 * rows[1].count("汉"))
    assert "汉" in terminal.screen.display[terminal.screen.cursor.y]
    assert terminal.screen.display[-1].strip()
