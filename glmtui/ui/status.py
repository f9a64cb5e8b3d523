"""StatusBar: what the program is doing and what it costs, on one line that never wraps.

Pure functions make the text from plain facts, richest first, and drop detail until it fits.
Knows neither the session nor how memory is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Event, Thread
from typing import TYPE_CHECKING, Literal

from textual.content import Content
from textual.widget import Widget

if TYPE_CHECKING:
    from glmtui.engine.device import Snapshot

SAMPLE_SECONDS = 2.0
NEARLY_FULL = 0.85
STEP = 0.005

Mood = Literal["calm", "busy", "good", "bad"]

_COLOURS: dict[Mood, str] = {
    "calm": "$text-muted",
    "busy": "$text-accent",
    "good": "$text-success",
    "bad": "$text-error",
}
# Told apart without colour too.
_OURS, _OTHERS, _FREE = "━", "╍", "─"


@dataclass(frozen=True, slots=True)
class Memory:
    """One device's memory, in bytes; None where unknown. `used` is by us and all others."""

    name: str
    total: int | None
    used: int | None
    ours: int | None = None

    @property
    def share(self) -> float:
        """The fraction used; 0 where unknown."""
        return self.used / self.total if self.used is not None and self.total else 0.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What the bar shows.

    Attributes:
        state: a few words, such as "27 tok/s".
        model: its name; empty for none.
        used, limit: tokens of context; None where unknown.
        memories: one for each GPU, or the host's.
    """

    state: str = ""
    mood: Mood = "calm"
    model: str = ""
    used: int | None = None
    limit: int | None = None
    memories: tuple[Memory, ...] = ()


# ---- pure text


def gigabytes(nbytes: int) -> str:
    """Bytes as GB without the unit: "0.3", "15.6", "80"."""
    value = nbytes / 1e9
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def tokens(count: int | None) -> str:
    """A count of tokens: "n/a", "512", "12,288", "128k"."""
    if count is None:
        return "n/a"
    return f"{count:,}" if count < 100_000 else f"{count // 1000:,}k"


def bar(parts: Sequence[tuple[float, str, str]], width: int) -> Content:
    """A line of `width` cells: for each part its fraction, glyph and colour; the rest is free."""
    cells, upto, at = [], 0.0, 0
    for share, glyph, colour in parts:
        upto += share
        end = max(at, min(width, round(upto * width)))
        if share > 0 and end == at < width:
            end = at + 1  # a little is not nothing
        cells.append((glyph * (end - at), colour))
        at = end
    return Content.assemble(*cells, (_FREE * (width - at), "$text-disabled"))


def context_meter(used: int | None, limit: int | None, detail: int) -> Content:
    """Tokens of context used, of how many; the bar only with `detail` 3, one number with 0."""
    if used is None and limit is None:
        return Content("")
    share = used / limit if used is not None and limit else 0.0
    colour = "$warning" if share >= NEARLY_FULL else "$accent"
    text = tokens(used) if limit is None else f"{tokens(used)}/{tokens(limit)}"
    if detail == 0:
        text = f"{share:.0%}" if limit and used is not None else tokens(used)
    style = "$text-warning" if share >= NEARLY_FULL else "$text-muted"
    parts = [Content.styled("ctx ", "$text-muted")]
    if detail >= 3 and limit:
        parts += [bar([(share, _OURS, colour)], 8), Content(" ")]
    return Content("").join([*parts, Content.styled(text, style)])


def memory_meter(memory: Memory, detail: int) -> Content:
    """One device: name and share used, a bar from `detail` 1 on, and the numbers with 3."""
    text = " n/a" if memory.used is None or not memory.total else f" {memory.share:.0%}"
    if detail >= 3 and memory.used is not None and memory.total:
        text = f" {gigabytes(memory.used)}/{gigabytes(memory.total)} GB"
    parts = [(memory.share, _OURS, "$secondary")]  # by whom is not known
    if memory.ours is not None and memory.total:
        ours = min(memory.share, memory.ours / memory.total)
        parts = [(ours, _OURS, "$accent"), (memory.share - ours, _OTHERS, "$warning")]
    width = (0, 4, 6, 10)[detail]
    style = "$text-warning" if memory.share >= 0.95 else "$text-muted"
    return Content.assemble(
        (memory.name + (" " if width else ""), "$text-muted"), bar(parts, width), (text, style)
    )


def memory_meters(memories: Sequence[Memory], detail: int) -> Content:
    """All devices; below `detail` 0, where even that is too wide, the fullest of them."""
    if detail >= 0 or len(memories) < 2:
        return Content("  ").join(memory_meter(memory, max(0, detail)) for memory in memories)
    fullest = max(memories, key=lambda memory: memory.share)
    return memory_meter(replace(fullest, name=f"{len(memories)} GPUs, fullest"), 0)


def status_line(facts: Facts, width: int) -> Content:
    """The whole bar in exactly `width` cells: detail goes before anything is cut."""
    state = Content.styled(f" {facts.state}", _COLOURS[facts.mood])
    model = Content.styled(f"  {facts.model}" if facts.model else "", "$text-muted")
    gap = Content("   ")
    levels = [(3, 3), (3, 2), (1, 2), (1, 1), (0, 0), (0, -1)]
    for left in (state + model, state):
        for context_detail, memory_detail in levels:
            context = context_meter(facts.used, facts.limit, context_detail)
            meters = [context, memory_meters(facts.memories, memory_detail)]
            right = gap.join(meter for meter in meters if meter) + " "
            if left.cell_length + 2 + right.cell_length <= width:
                return left.pad_right(width - left.cell_length - right.cell_length) + right
    return state.truncate(width, ellipsis=True, pad=True)


# ---- the widget and its source


class StatusBar(Widget):
    """The line at the bottom; drawn again only when its text changes."""

    def __init__(self) -> None:
        super().__init__()
        self._facts = Facts()
        self._line = Content("")

    @property
    def facts(self) -> Facts:
        """What is shown now."""
        return self._facts

    def tell(self, facts: Facts) -> None:
        """Shows these facts."""
        self._facts = facts
        line = status_line(facts, self.size.width)
        if not line.is_same(self._line):
            self._line = line
            self.refresh()

    def on_resize(self) -> None:
        """Fits the line to the new width."""
        self._line = Content("")
        self.tell(self._facts)

    def render(self) -> Content:
        """The line."""
        return self._line


class MemoryWatch(Thread):
    """Measures memory every two seconds, off the UI's thread, and hands over what has changed."""

    def __init__(self, tell: Callable[[tuple[Memory, ...]], None]) -> None:
        super().__init__(name="glmtui-memory", daemon=True)
        self._tell = tell
        self._told: tuple[Memory, ...] = ()
        self._over = Event()

    def sample(self) -> None:
        """Measures once, on the thread that calls."""
        from glmtui.engine import device  # brings NVML in, which the first paint need not wait for

        found = memories(device.snapshot())
        if not much_the_same(found, self._told):
            self._told = found
            self._tell(found)

    def run(self) -> None:
        """Every two seconds until `stop`."""
        while not self._over.wait(SAMPLE_SECONDS):
            self.sample()

    def stop(self) -> None:
        """Ends the thread at its next wake-up."""
        self._over.set()


def memories(snapshot: Snapshot) -> tuple[Memory, ...]:
    """The meters for a snapshot: one for each GPU, or the host's where there is none."""
    host = snapshot.memory
    if not snapshot.gpus:
        both = host.total is not None and host.available is not None
        used = host.total - host.available if both else None  # type: ignore[operator]
        return (Memory("RAM", host.total, used, host.used_by_us),)
    several = len(snapshot.gpus) > 1
    return tuple(
        Memory(f"GPU{gpu.index}" if several else "GPU", gpu.total, gpu.used, gpu.used_by_us)
        for gpu in snapshot.gpus
    )


def much_the_same(found: Sequence[Memory], before: Sequence[Memory]) -> bool:
    """Whether no device's memory has moved by half a percent: an idle screen should lie still."""
    if [memory.name for memory in found] != [memory.name for memory in before]:
        return False
    pairs = [(new.share, old.share) for new, old in zip(found, before, strict=True)]
    known = [
        (new.used is None) == (old.used is None) for new, old in zip(found, before, strict=True)
    ]
    return all(known) and all(abs(new - old) < STEP for new, old in pairs)
