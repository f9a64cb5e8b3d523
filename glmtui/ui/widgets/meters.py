"""Meters: numbers, bars and sparklines as text. Nothing here knows what is measured.

Any number is taken, NaN and infinity included, and makes a few columns of text.
"""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

OURS, OTHERS, FREE = "━", "╍", "─"
"""Told apart without colour too."""

MOST = 1e15
"""A number from which on it is no measurement."""

_STEPS = "▁▂▃▄▅▆▇█"


def is_sane(value: float) -> bool:
    """Whether it is a number that can be measured: False for NaN, and for what is too large."""
    return -MOST < value < MOST


def gigabytes(nbytes: float) -> str:
    """Bytes as GB without the unit: "0.3", "15.6", "80", "n/a"."""
    if not is_sane(nbytes):
        return "n/a"
    value = nbytes / 1e9
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def tokens(count: int | None) -> str:
    """A count of tokens: "n/a", "512", "12,288", "128k"."""
    if count is None or not is_sane(count):
        return "n/a"
    return f"{count:,}" if abs(count) < 100_000 else f"{count // 1000:,}k"


def bar(parts: Sequence[tuple[float, str, str]], width: int) -> Content:
    """A line of `width` cells: for each part its fraction, glyph and colour; the rest is free."""
    cells, upto, at = [], 0.0, 0
    for share, glyph, colour in parts:
        share = share if is_sane(share) else 0.0
        upto += share
        end = max(at, min(width, round(upto * width)))
        if share > 0 and end == at < width:
            end = at + 1  # a little is not nothing
        cells.append((glyph * (end - at), colour))
        at = end
    return Content.assemble(*cells, (FREE * (width - at), "$text-disabled"))


def sparkline(values: Sequence[float], width: int) -> str:
    """The last `width` values as a row of blocks, the least of them lowest."""
    shown = [value for value in values if is_sane(value)][-width:] if width > 0 else []
    if not shown:
        return ""
    least, span = min(shown), max(shown) - min(shown)
    top = len(_STEPS) - 1
    # Where all are alike there is no low and no high.
    heights = [round((value - least) / span * top) if span else top // 2 for value in shown]
    return "".join(_STEPS[height] for height in heights)
