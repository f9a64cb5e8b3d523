"""Picking: a transcript in which one message can be marked, for keys to act on.

It is so while it has the keys: a message is marked when they come to it. What the keys do is
declared in COMMANDS and done by the screen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import textual.message
from textual import events
from textual.binding import BindingType

from glmtui.chat import Message
from glmtui.commands import MESSAGE
from glmtui.ui.transcript.transcript import Transcript
from glmtui.ui.widgets.bindings import bindings


class MessageSelection(Transcript):
    """A transcript with at most one marked message.

    Args:
        typed: hears of a key that means nothing here but a character, for the prompt.
    """

    BINDINGS: ClassVar[list[BindingType]] = bindings(MESSAGE, action="screen.command('{}')")

    class Picked(textual.message.Message):
        """Another message is marked, or none."""

    def __init__(self, typed: Callable[[events.Key], None], **transcript: Any) -> None:
        super().__init__(**transcript)
        self._typed = typed

    @property
    def picked(self) -> str | None:
        """The id of the marked message."""
        return self._page.picked

    def pick(self, message_id: str | None, *, at_row: int | None = None) -> None:
        """Marks this message and no other, and brings it into view.

        Args:
            at_row: the row of the view where it begins, if there is a choice.
        """
        self._page.pick(message_id)
        if message_id is not None:
            self._look_back(lambda: self._page.is_laid_out(message_id))
            self._follow(False)
            self._scroll(self._in_view(message_id, at_row))
        elif self.scroll_offset.y >= self.max_scroll_y:
            self._follow(True)
        self._draw(0)
        self._tell()
        self.post_message(self.Picked())

    def pick_next(self, step: int) -> bool:
        """Marks the message after (1) or before (-1) the marked one. False past the last."""
        ids = self._page.ids
        at = (ids.index(self.picked) if self.picked else len(ids) - 1) + step
        if at >= len(ids):
            return False
        self.pick(ids[max(0, at)])
        return True

    def pick_last(self) -> bool:
        """Marks the last message. False where there is none."""
        ids = self._page.ids
        if ids:
            self.pick(ids[-1])
        return bool(ids)

    def fold(self, message_id: str) -> bool:
        """Hides or shows what the model thought before a reply. False where there is nothing."""
        self._look_back(lambda: self._page.is_laid_out(message_id))
        if not self._page.fold(message_id):
            return False
        self._laid_out(self._page.total if self.following else self.scroll_offset.y)
        self.refresh()
        return True

    @property
    def picked_row(self) -> int | None:
        """The row of the view where the marked message begins."""
        if self.picked is None:
            return None
        return self._page.lines_of(self.picked)[0] - self.scroll_offset.y

    def _in_view(self, message_id: str, at_row: int | None) -> int:
        """Where to scroll to; a message higher than the view is shown from its beginning on."""
        first, last = self._page.lines_of(message_id)
        height = self.size.height - 1  # the last row says what the keys do
        top = self.scroll_offset.y if at_row is None else first - at_row
        if last - first >= height and not first <= top <= last - height:
            top = first
        elif last - first < height:
            top = min(first, max(top, last - height))
        return max(0, min(top, self.virtual_size.height - self.size.height))

    def show(
        self,
        messages: Sequence[Message],
        places: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        """As Transcript does; the mark stays where its message is still there."""
        had = self.picked
        super().show(messages, places)
        if had is not None:
            self.post_message(self.Picked())

    # ---- keys

    async def on_key(self, event: events.Key) -> None:
        """Keys in the order they came, also those of a burst that came before the keys moved on."""
        event.prevent_default().stop()
        if self.screen.focused is not self:
            self._typed(event)
            return
        bound = self.screen.active_bindings.get(event.key)
        if bound is not None:
            await self.app.run_action(bound.binding.action, bound.node)
        elif event.is_printable:
            self._typed(event)

    def on_click(self, event: events.Click) -> None:
        """A click on the line that stands for thoughts shows or hides them."""
        reply = self._page.folded_at(self.scroll_offset.y + event.y)
        if event.chain == 1 and reply is not None:
            self.fold(reply)

    def on_focus(self) -> None:
        """There is always a marked message while keys act on it."""
        if self.picked is None:
            self.pick_last()
