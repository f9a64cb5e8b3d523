"""The two colour themes of our own, one dark, one light; Textual's are there beside them."""

from __future__ import annotations

from textual.theme import Theme

DARK, LIGHT = "ink", "paper"


def themes() -> tuple[Theme, ...]:
    """Calm backgrounds, one accent; text on every surface has a contrast of at least 7 to 1,
    secondary text 4.5 to 1 (WCAG 2.2)."""
    ink = Theme(
        name=DARK,
        primary="#7aa2d6",
        secondary="#8f9bb3",
        accent="#8cc2b3",
        warning="#dcae6a",
        error="#e58a86",
        success="#9cc38a",
        foreground="#d7dae0",
        background="#15181d",
        surface="#1c2027",
        panel="#242a33",
        boost="#242a33",
        dark=True,
        variables={
            "text-muted": "#99a1af",
            "text-disabled": "#5b6370",
            "block-cursor-background": "#2d3a4d",
            "block-cursor-foreground": "#eef1f6",
            "block-cursor-text-style": "none",
            "input-cursor-background": "#d7dae0",
            "input-cursor-foreground": "#15181d",
            "input-selection-background": "#3a4d66",
            "scrollbar": "#333b47",
            "scrollbar-hover": "#465263",
            "scrollbar-active": "#5a6a80",
            "scrollbar-background": "#15181d",
            "scrollbar-background-hover": "#15181d",
            "scrollbar-background-active": "#15181d",
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
        background="#fbfaf7",
        surface="#f2f0ea",
        panel="#e7e4dc",
        boost="#e7e4dc",
        dark=False,
        variables={
            "text-muted": "#5a606b",
            "text-disabled": "#a8aab0",
            "block-cursor-background": "#d5e0ee",
            "block-cursor-foreground": "#14181e",
            "block-cursor-text-style": "none",
            "input-cursor-background": "#22262d",
            "input-cursor-foreground": "#fbfaf7",
            "input-selection-background": "#c4d5ea",
            "scrollbar": "#d3d0c7",
            "scrollbar-hover": "#bdb9ae",
            "scrollbar-active": "#a39e91",
            "scrollbar-background": "#fbfaf7",
            "scrollbar-background-hover": "#fbfaf7",
            "scrollbar-background-active": "#fbfaf7",
        },
    )
    return ink, paper
