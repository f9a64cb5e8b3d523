"""StatsPanel: statistics of the last reply, of the conversation, and of memory.

Pure functions make the page from messages and memories; the screen updates it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from glmtui.chat import GenerationStats, Message
from glmtui.language import _
from glmtui.ui.panels.device_memory import (
    CACHE_GLYPH,
    GROWTH_GLYPH,
    DeviceMemory,
    memory_bar,
    memory_parts,
)
from glmtui.ui.panels.status_text import memory_advice
from glmtui.ui.widgets.meters import (
    FREE_GLYPH,
    OTHERS_GLYPH,
    OWN_GLYPH,
    format_gigabytes,
    is_sane,
    sparkline,
)

REFRESH_SECONDS = 1.0
"""Time between two updates of the page."""
GRAPH_WIDTH, NAME_WIDTH, BAR_WIDTH = 32, 14, 60
"""Cells of the sparklines, of the names beside them, and of the memory bars."""


class StatsPanel(ModalScreen[None]):
    """Shows the page and updates it every second. An unchanged page is not redrawn.

    Args:
        page: makes the page for a width in cells.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,f3,q", "dismiss(None)", show=False)
    ]

    def __init__(self, page: Callable[[int], Content]) -> None:
        super().__init__()
        self._page = page
        self._content = Content("")
        self._text = Static(self._content)

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog"):
            yield self._text
            yield Static(Content(_("Esc closes")), classes="help")

    def on_mount(self) -> None:
        self.set_interval(REFRESH_SECONDS, self._show)

    def on_resize(self) -> None:
        self.call_after_refresh(self._show)

    def _show(self) -> None:
        page = self._page(self._text.size.width)
        if not page.is_same(self._content):
            self._content = page
            self._text.update(page)


def stats_page(
    messages: Sequence[Message], memories: Sequence[DeviceMemory], width: int
) -> Content:
    """The whole page, `width` cells wide."""
    stats = [message.stats for message in messages if message.stats is not None]
    blocks = [reply_stats(stats[-1]) if stats else _heading(_("No reply yet"))]
    if len(stats) > 1:
        blocks.append(conversation_stats(stats, min(GRAPH_WIDTH, width - NAME_WIDTH - 20)))
    blocks += [device_section(memory, width) for memory in memories]
    if any(memory.shortfall for memory in memories):
        blocks.append(Content.styled(memory_advice(), "$text-warning"))
    return Content("\n\n").join(blocks)


def reply_stats(stats: GenerationStats) -> Content:
    """The statistics of one reply, one line for each number."""
    reused = ""
    if stats.reused_tokens and is_sane(stats.reused_tokens):
        reused = _("{count:,} of them cached").format(count=stats.reused_tokens)
    read = "  ".join(filter(None, (_per_second(stats.prefill_rate), reused)))
    rows = [
        (_("prompt"), _tokens(stats.prompt_tokens), read),
        (_("reply"), _tokens(stats.generated_tokens), _per_second(stats.decode_rate)),
        (_("first token"), _seconds(stats.first_token_seconds), ""),
    ]
    if stats.peak_memory is not None:
        rows.append((_("peak memory"), f"{format_gigabytes(stats.peak_memory)} GB", ""))
    lines = [_line(name, value, note) for name, value, note in rows]
    return Content("\n").join([_heading(_("Last reply")), *lines])


def conversation_stats(stats: Sequence[GenerationStats], width: int) -> Content:
    """Sparklines of speed and peak memory over all replies, oldest first."""
    rates = [rate for one in stats if (rate := one.decode_rate) is not None and is_sane(rate)]
    peaks = [n / 1e9 for one in stats if (n := one.peak_memory) is not None and is_sane(n)]
    lines = [_heading(_("Over the conversation"))]
    for name, values, unit in ((_("speed"), rates, "tok/s"), (_("memory"), peaks, "GB")):
        if values:
            span = f"{min(values):.1f} – {max(values):.1f} {unit}"
            lines.append(_line(name, sparkline(values, width), span, "$accent"))
    return Content("\n").join(lines)


def device_section(memory: DeviceMemory, width: int) -> Content:
    """The memory of one device: a bar, and a line for each of its parts."""
    head = _heading(memory.name)
    if memory.used is None or not memory.total:
        return head + Content.styled("  n/a", "$text-muted")
    names = {
        OWN_GLYPH: _("weights") if memory.model else _("glmtui and others") if memory.ours is None
        else _("glmtui"),
        CACHE_GLYPH: _("KV cache now"),
        OTHERS_GLYPH: _("other programs"),
        GROWTH_GLYPH: _("KV cache growth to full context"),
    }  # fmt: skip
    lines = [head, memory_bar(memory, max(0, min(BAR_WIDTH, width - 2)))]
    for nbytes, glyph, colour in memory_parts(memory):
        if nbytes:
            lines.append(_part(glyph, colour, names[glyph], nbytes))
    lines.append(_part(FREE_GLYPH, "$text-disabled", _("free"), memory.total - memory.used))
    if memory.shortfall:
        text = _("The full context needs {size} GB more than is available.")
        lines.append(
            Content.styled(text.format(size=format_gigabytes(memory.shortfall)), "$text-warning")
        )
    return Content("\n").join(lines)


def _part(glyph: str, colour: str, name: str, nbytes: int) -> Content:
    size = f"{nbytes / 1e9:7.2f} GB  " if is_sane(nbytes) else "    n/a     "
    return Content.assemble((f"{glyph} ", colour), size, (name, "$text-muted"))


def _line(name: str, value: str, note: str = "", style: str = "") -> Content:
    return Content.assemble(
        Content.styled(name, "$text-muted").pad_right(
            max(0, NAME_WIDTH - Content(name).cell_length)
        ),
        (value, style),
        (f"  {note}" if note else "", "$text-muted"),
    )


def _heading(text: str) -> Content:
    return Content.styled(text, "bold")


def _tokens(count: int) -> str:
    return _("{count:,} tokens").format(count=count) if is_sane(count) else "n/a"


def _per_second(rate: float | None) -> str:
    if rate is None or not is_sane(rate):
        return ""
    return _("{rate:,.1f} tok/s").format(rate=rate)


def _seconds(seconds: float) -> str:
    return _("{seconds:.2f} s").format(seconds=seconds) if is_sane(seconds) else "n/a"
