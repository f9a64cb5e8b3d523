"""The themes that glmtui adds to Textual's: one dark, one light, one in the terminal's colours."""

from __future__ import annotations

import os
from collections.abc import Mapping

from rich.console import Console
from textual.theme import Theme

DARK, LIGHT, TERMINAL = "ink", "paper", "terminal"


def has_few_colours(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the terminal has at most 16 colours, or NO_COLOR is set (no-color.org)."""
    if environ.get("NO_COLOR"):
        return True
    console = Console(force_terminal=True, legacy_windows=False, _environ=environ)
    return console.color_system not in ("256", "truecolor")


def themes() -> tuple[Theme, ...]:
    """On every surface text has a contrast of at least 7:1 and secondary text 4.5:1 (WCAG 2.2).

    Backgrounds are nearly grey. In 256 colours Rich maps them to three different greys; more
    saturated ones would all become the same colour.
    """
    ink = Theme(
        name=DARK,
        primary="#7aa2d6",
        secondary="#8f9bb3",
        accent="#8cc2b3",
        warning="#dcae6a",
        error="#e58a86",
        success="#9cc38a",
        foreground="#d7dae0",
        background="#16181c",
        surface="#1e2126",
        panel="#272b31",
        boost="#272b31",
        dark=True,
        variables={
            "text-muted": "#99a1af",
            "text-disabled": "#5b6370",
            "block-cursor-background": "#2d3a4d",
            "block-cursor-foreground": "#eef1f6",
            "block-cursor-text-style": "none",
            "input-cursor-background": "#d7dae0",
            "input-cursor-foreground": "#16181c",
            "input-selection-background": "#3a4d66",
            "scrollbar": "#333b47",
            "scrollbar-hover": "#465263",
            "scrollbar-active": "#5a6a80",
            "scrollbar-background": "#16181c",
            "scrollbar-background-hover": "#16181c",
            "scrollbar-background-active": "#16181c",
        },
    )
    paper = Theme(
        name=LIGHT,
        primary="#2b5c9e",
        secondary="#5a6475",
        accent="#1f6b5c",
        warning="#8a5a00",
        error="#b0302d",
        success="#3b6e28",
        foreground="#22262d",
        background="#fbfaf8",
        surface="#f1f1ef",
        panel="#e6e5e2",
        boost="#e6e5e2",
        dark=False,
        variables={
            "text-muted": "#5a606b",
            "text-disabled": "#a8aab0",
            "block-cursor-background": "#d5e0ee",
            "block-cursor-foreground": "#14181e",
            "block-cursor-text-style": "none",
            "input-cursor-background": "#22262d",
            "input-cursor-foreground": "#fbfaf8",
            "input-selection-background": "#c4d5ea",
            "scrollbar": "#d2d2cf",
            "scrollbar-hover": "#bbbbb7",
            "scrollbar-active": "#a2a29d",
            "scrollbar-background": "#fbfaf8",
            "scrollbar-background-hover": "#fbfaf8",
            "scrollbar-background-active": "#fbfaf8",
        },
    )
    # The highlighted row also has an underline, for terminals without colours: Textual does not
    # draw the text style "reverse" in option lists.
    highlighted = {
        "foreground": "ansi_black",
        "background": "ansi_cyan",
        "text-style": "bold underline",
    }
    cursor = {"foreground": "ansi_default", "background": "ansi_default", "text-style": "reverse"}
    cursors = {
        "block-cursor": highlighted,
        "block-cursor-blurred": highlighted,
        "input-cursor": cursor,
    }
    terminal = Theme(
        name=TERMINAL,
        ansi=True,
        primary="ansi_blue",
        secondary="ansi_default",
        accent="ansi_cyan",
        warning="ansi_yellow",
        error="ansi_red",
        success="ansi_green",
        foreground="ansi_default",
        background="ansi_default",
        surface="ansi_default",
        panel="ansi_default",
        boost="ansi_default",
        dark=True,
        variables={
            **{
                f"{name}-{rule}": value
                for name, rules in cursors.items()
                for rule, value in rules.items()
            },
            "ansi-background": "ansi_black",
            "ansi-foreground": "ansi_white",
            "text-muted": "ansi_default",
            "text-disabled": "ansi_default",
            "input-selection-background": "ansi_cyan",
            "input-selection-foreground": "ansi_black",
            "screen-selection-background": "ansi_cyan",
            "screen-selection-foreground": "ansi_black",
            "scrollbar": "ansi_default",
            "scrollbar-background": "ansi_default",
        },
    )
    return ink, paper, terminal
