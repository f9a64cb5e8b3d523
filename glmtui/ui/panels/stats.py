"""Details: what the last reply cost, how it went over the conversation, and who has the memory.

Pure functions make the page from messages and memories; the dialog shows it and keeps it true.
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
from glmtui.ui.panels.device_memory import CACHE, TO_COME, Memory, memory_bar, parts
from glmtui.ui.panels.status_text import ways_out
from glmtui.ui.widgets.meters import FREE, OTHERS, OURS, gigabytes, is_sane, sparkline

REFRESH_SECONDS = 1.0
GRAPH, NAME, BAR = 32, 14, 60  # cells


class StatsPanel(ModalScreen[None]):
    """The page, made anew each second while it is open; an unchanged one is not drawn again.

    Args:
        page: makes it, for so many cells.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,f3,q", "dismiss(None)", show=False)
    ]

    def __init__(self, page: Callable[[int], Content]) -> None:
        super().__init__()
        self._page = page
        self._shown = Content("")
        self._text = Static(self._shown)

    def compose(self) -> ComposeResult:
        """The page, which scrolls."""
        with VerticalScroll(classes="dialog"):
            yield self._text
            yield Static(Content(_("Esc closes")), classes="help")

    def on_mount(self) -> None:
        """Begins."""
        self.set_interval(REFRESH_SECONDS, self._show)

    def on_resize(self) -> None:
        """Another width."""
        self.call_after_refresh(self._show)

    def _show(self) -> None:
        page = self._page(self._text.size.width)
        if not page.is_same(self._shown):
            self._shown = page
            self._text.update(page)


def page(messages: Sequence[Message], memories: Sequence[Memory], width: int) -> Content:
    """All of it, for a window of `width` cells."""
    stats = [message.stats for message in messages if message.stats is not None]
    blocks = [last_reply(stats[-1]) if stats else _heading(_("No reply yet"))]
    if len(stats) > 1:
        blocks.append(over_time(stats, min(GRAPH, width - NAME - 20)))
    blocks += [device(memory, width) for memory in memories]
    if any(memory.lacking for memory in memories):
        blocks.append(Content.styled(ways_out(), "$text-warning"))
    return Content("\n\n").join(blocks)


def last_reply(stats: GenerationStats) -> Content:
    """What one reply cost, a line for each number."""
    reused = ""
    if stats.reused_tokens and is_sane(stats.reused_tokens):
        reused = _("{count:,} of them read before").format(count=stats.reused_tokens)
    read = "  ".join(filter(None, (_per_second(stats.prefill_rate), reused)))
    rows = [
        (_("prompt"), _tokens(stats.prompt_tokens), read),
        (_("reply"), _tokens(stats.generated_tokens), _per_second(stats.decode_rate)),
        (_("first token"), _seconds(stats.first_token_seconds), ""),
    ]
    if stats.peak_memory is not None:
        rows.append((_("peak memory"), f"{gigabytes(stats.peak_memory)} GB", ""))
    lines = [_line(name, value, note) for name, value, note in rows]
    return Content("\n").join([_heading(_("Last reply")), *lines])


def over_time(stats: Sequence[GenerationStats], width: int) -> Content:
    """Speed and memory of each reply so far, oldest first."""
    rates = [rate for one in stats if (rate := one.decode_rate) is not None and is_sane(rate)]
    peaks = [n / 1e9 for one in stats if (n := one.peak_memory) is not None and is_sane(n)]
    lines = [_heading(_("Over the conversation"))]
    for name, values, unit in ((_("speed"), rates, "tok/s"), (_("memory"), peaks, "GB")):
        if values:
            span = f"{min(values):.1f} – {max(values):.1f} {unit}"
            lines.append(_line(name, sparkline(values, width), span, "$accent"))
    return Content("\n").join(lines)


def device(memory: Memory, width: int) -> Content:
    """One device's memory: a bar, and what each part of it is."""
    head = _heading(memory.name)
    if memory.used is None or not memory.total:
        return head + Content.styled("  n/a", "$text-muted")
    names = {
        OURS: _("weights") if memory.held else _("ours, and others") if memory.ours is None
        else _("ours"),
        CACHE: _("KV cache now"),
        OTHERS: _("others"),
        TO_COME: _("KV cache at full context, more"),
    }  # fmt: skip
    lines = [head, memory_bar(memory, max(0, min(BAR, width - 2)))]
    for nbytes, glyph, colour in parts(memory):
        if nbytes:
            lines.append(_part(glyph, colour, names[glyph], nbytes))
    lines.append(_part(FREE, "$text-disabled", _("free"), memory.total - memory.used))
    if memory.lacking:
        text = _("The full context would need {size} GB more than there is.")
        lines.append(Content.styled(text.format(size=gigabytes(memory.lacking)), "$text-warning"))
    return Content("\n").join(lines)


def _part(glyph: str, colour: str, name: str, nbytes: int) -> Content:
    size = f"{nbytes / 1e9:7.2f} GB  " if is_sane(nbytes) else "    n/a     "
    return Content.assemble((f"{glyph} ", colour), size, (name, "$text-muted"))


def _line(name: str, value: str, note: str = "", style: str = "") -> Content:
    return Content.assemble(
        Content.styled(name, "$text-muted").pad_right(max(0, NAME - Content(name).cell_length)),
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
