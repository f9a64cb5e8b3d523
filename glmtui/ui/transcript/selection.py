"""SelectableTranscript: a transcript in which one message can be selected, for keys to act on.

A message is selected while the transcript has the focus. What the keys do is declared in COMMANDS
and done by the screen.
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


class SelectableTranscript(Transcript):
    """A transcript with at most one selected message.

    Args:
        on_typed: called with keys that are not bound here but print a character.
    """

    BINDINGS: ClassVar[list[BindingType]] = bindings(MESSAGE, action="screen.command('{}')")

    class SelectionChanged(textual.message.Message):
        """Another message is selected, or none."""

    def __init__(self, on_typed: Callable[[events.Key], None], **transcript: Any) -> None:
        super().__init__(**transcript)
        self._on_typed = on_typed

    @property
    def selected_id(self) -> str | None:
        """The id of the selected message."""
        return self._layout.selected_id

    def select(self, message_id: str | None, *, at_row: int | None = None) -> None:
        """Selects this message, or none, and scrolls to it.

        Args:
            at_row: preferred row of the view for its first line.
        """
        self._layout.select(message_id)
        if message_id is not None:
            self._lay_out_older(lambda: self._layout.is_laid_out(message_id))
            self._follow(False)
            self._scroll(self._offset_to_show(message_id, at_row))
        elif self.scroll_offset.y >= self.max_scroll_y:
            self._follow(True)
        self._draw(0)
        self._post_following()
        self.post_message(self.SelectionChanged())

    def select_next(self, step: int) -> bool:
        """Selects the message after (1) or before (-1) the selected one. False past the last."""
        ids = self._layout.ids
        at = (ids.index(self.selected_id) if self.selected_id else len(ids) - 1) + step
        if at >= len(ids):
            return False
        self.select(ids[max(0, at)])
        return True

    def select_last(self) -> bool:
        """Selects the last message. Returns False if there is none."""
        ids = self._layout.ids
        if ids:
            self.select(ids[-1])
        return bool(ids)

    def toggle_reasoning(self, message_id: str) -> bool:
        """Folds or unfolds the reasoning of a reply. Returns False if it has none."""
        self._lay_out_older(lambda: self._layout.is_laid_out(message_id))
        if not self._layout.toggle_reasoning(message_id):
            return False
        self._show_new_layout(self._layout.total if self.following else self.scroll_offset.y)
        self.refresh()
        return True

    @property
    def selected_row(self) -> int | None:
        """The row of the view where the selected message begins."""
        if self.selected_id is None:
            return None
        return self._layout.lines_of(self.selected_id)[0] - self.scroll_offset.y

    def _offset_to_show(self, message_id: str, at_row: int | None) -> int:
        """The scroll offset at which as much as possible of the message is visible."""
        first, last = self._layout.lines_of(message_id)
        height = self.size.height - 1  # the line about the keys covers the last row
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
        """Keeps the selection if the message is among the new ones."""
        before = self.selected_id
        super().show(messages, places)
        if before is not None:
            self.post_message(self.SelectionChanged())

    # ---- keys

    async def on_key(self, event: events.Key) -> None:
        """Handles keys in the order of their arrival.

        Keys that arrived in a burst are still sent here after the first of them moved the focus.
        """
        event.prevent_default().stop()
        if self.screen.focused is not self:
            self._on_typed(event)
            return
        bound = self.screen.active_bindings.get(event.key)
        if bound is not None:
            await self.app.run_action(bound.binding.action, bound.node)
        elif event.is_printable:
            self._on_typed(event)

    def on_click(self, event: events.Click) -> None:
        """A click on the heading of the reasoning folds or unfolds it."""
        reply = self._layout.reasoning_head_at(self.scroll_offset.y + event.y)
        if event.chain == 1 and reply is not None:
            self.toggle_reasoning(reply)

    def on_focus(self) -> None:
        """Selects a message: there always is one while keys act on it."""
        if self.selected_id is None:
            self.select_last()
