"""Numbers, bars and sparklines as short texts.

Every float is accepted, also NaN and infinity, and gives a text of bounded width.
"""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

# The parts of a bar. Each has a glyph of its own, so that a bar can be read without colours.
OWN_GLYPH, OTHERS_GLYPH, FREE_GLYPH = "━", "╍", "─"

MAX_VALUE = 1e15
"""Numbers from here on are measuring errors, in any unit used here, and are shown as "n/a"."""

_STEPS = "▁▂▃▄▅▆▇█"


def is_sane(value: float) -> bool:
    """Whether a number can be shown: False for NaN, infinity and what exceeds `MAX_VALUE`."""
    return -MAX_VALUE < value < MAX_VALUE


def format_gigabytes(nbytes: float) -> str:
    """Bytes as GB without the unit: "0.3", "15.6", "80", "n/a"."""
    if not is_sane(nbytes):
        return "n/a"
    value = nbytes / 1e9
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def format_token_count(count: int | None) -> str:
    """A number of tokens: "n/a", "512", "12,288", "128k"."""
    if count is None or not is_sane(count):
        return "n/a"
    return f"{count:,}" if abs(count) < 100_000 else f"{count // 1000:,}k"


def bar(parts: Sequence[tuple[float, str, str]], width: int) -> Content:
    """A bar of `width` cells.

    Args:
        parts: fraction of the width, glyph and colour of each part, from the left. The rest is
            drawn as free. A part with a fraction above 0 gets at least one cell.
    """
    cells, total, end = [], 0.0, 0
    for fraction, glyph, colour in parts:
        fraction = fraction if is_sane(fraction) else 0.0
        total += fraction
        start, end = end, max(end, min(width, round(total * width)))
        if fraction > 0 and start == end < width:
            end += 1
        cells.append((glyph * (end - start), colour))
    return Content.assemble(*cells, (FREE_GLYPH * (width - end), "$text-disabled"))


def sparkline(values: Sequence[float], width: int) -> str:
    """The last `width` values as block characters; the smallest of them is the lowest block."""
    sane = [value for value in values if is_sane(value)][-width:] if width > 0 else []
    if not sane:
        return ""
    least, span = min(sane), max(sane) - min(sane)
    top = len(_STEPS) - 1
    # Equal values are drawn at half height.
    heights = [round((value - least) / span * top) if span else top // 2 for value in sane]
    return "".join(_STEPS[height] for height in heights)
