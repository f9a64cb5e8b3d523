"""Terminals with few colours or none, and the contrast of the themes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.color import Color, ColorSystem

from glmtui.ui.terminal.themes import DARK, LIGHT, has_few_colours, themes
from support import TESTS
from support.app_process import PROGRAM
from support.emulated_terminal import Terminal

MOUSE = {b"1000", b"1003", b"1006", b"1015"}  # the terminal's modes for reporting the mouse
FIXED_SETTINGS = 'Settings(model="http://fake.invalid/v1")'
SETTINGS_FROM_ENVIRONMENT = (
    "__import__('glmtui.config').config.load_settings(None, "
    'overrides={"model": "http://fake.invalid/v1"})[0]'
)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Starts the program with settings from the environment, in place of fixed ones."""
    terminals: list[Terminal] = []

    def start_program(**environ: str) -> Terminal:
        program = PROGRAM.format(tests=str(TESTS), prepare="pass")
        assert program.count(FIXED_SETTINGS) == 1, "support.app_process has changed"
        program = program.replace(FIXED_SETTINGS, SETTINGS_FROM_ENVIRONMENT)
        terminals.append(Terminal(tmp_path, ["-c", program], environ=environ))
        terminals[-1].wait_for_text("Ask anything")
        return terminals[-1]

    yield start_program
    for terminal in terminals:
        terminal.close()


def colours(output: bytes) -> set[int]:
    """The numbers of all colours that were set; 38 and 48 stand for more than 16."""
    found = b";".join(re.findall(rb"\x1b\[([0-9;]*)m", output))
    numbers = {int(number) for number in found.split(b";") if number}
    return numbers & {*range(30, 39), *range(40, 49), *range(90, 98), *range(100, 108)}


def test_no_color_means_none(start: Callable[..., Terminal]) -> None:
    terminal = start(NO_COLOR="1", COLORTERM="truecolor")
    terminal.press(b"Hi\r")
    terminal.wait_for_text("Hello there.")
    terminal.press(b"/")
    terminal.wait_for_text("/stop")
    terminal.press(b"\x1b[B")
    terminal.wait_for_text("▸/editor")
    terminal.press(b"\x7f\x0f")
    terminal.wait_for_text("Saved conversations")
    terminal.wait_for_text(" now ")
    assert not colours(terminal.output)
    row = next(y for y, line in enumerate(terminal.screen.display) if "now" in line)
    cells = terminal.screen.buffer[row]
    assert any(cells[x].underscore and cells[x].bold for x in range(80)), "the row that is chosen"


@pytest.mark.parametrize("term", ["xterm", "vt100", "screen", "linux"])
def test_few_colours_are_those_of_the_terminal(start: Callable[..., Terminal], term: str) -> None:
    terminal = start(TERM=term)
    terminal.press(b"Hi\r")
    terminal.wait_for_text("Hello there.")
    assert colours(terminal.output) <= {*range(30, 38), *range(40, 48)}


@pytest.mark.parametrize("mouse", [True, False])
def test_without_the_mouse_the_terminal_keeps_its_own(
    start: Callable[..., Terminal], mouse: bool
) -> None:
    terminal = start(GLMTUI_UI_MOUSE=str(mouse).lower())
    asked = set(re.findall(rb"\x1b\[\?(\d+)h", terminal.output))
    assert asked & MOUSE == (MOUSE if mouse else set())


@pytest.mark.parametrize(
    ("environ", "few"),
    [
        ({"TERM": "xterm-256color"}, False),
        ({"TERM": "xterm", "COLORTERM": "truecolor"}, False),
        ({"TERM": "tmux-256color"}, False),
        ({"TERM": "screen"}, True),
        ({"TERM": "dumb"}, True),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, True),
        ({"TERM": "xterm-256color", "NO_COLOR": ""}, False),
    ],
)
def test_few_colours_are_detected(environ: dict[str, str], few: bool) -> None:
    assert has_few_colours(environ) == few


@pytest.mark.parametrize("name", [DARK, LIGHT])
def test_in_256_colours_the_backgrounds_differ(name: str) -> None:
    (theme,) = (theme for theme in themes() if theme.name == name)
    grounds = [theme.background, theme.surface, theme.panel]
    numbers = {
        Color.parse(ground or "").downgrade(ColorSystem.EIGHT_BIT).number for ground in grounds
    }
    assert len(numbers) == 3


def luminance(colour: str) -> float:
    def linear(part: float) -> float:
        return part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(int(colour[i : i + 2], 16) / 255) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """By WCAG 2.2."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("name", [DARK, LIGHT])
def test_text_has_enough_contrast_on_every_background(name: str) -> None:
    (theme,) = (theme for theme in themes() if theme.name == name)
    muted = theme.variables["text-muted"]
    for ground in (theme.background, theme.surface, theme.panel):
        assert ground
        assert contrast(theme.foreground or "", ground) >= 7
        for text in (muted, theme.primary, theme.accent, theme.warning, theme.error, theme.success):
            assert contrast(text or "", ground) >= 4.5, (text, ground)
