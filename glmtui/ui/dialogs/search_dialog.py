"""TextSearch: finding words in all conversations, and the place to go to.

What is found comes in while it is searched, on a thread; what is typed meanwhile begins anew.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from textual.content import Content
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from glmtui.errors import StoreError
from glmtui.language import _, ngettext
from glmtui.sanitize import sanitize, sanitize_line
from glmtui.store.search import Hit, search
from glmtui.ui.dialogs.conversation_picker import ConversationEntry, ConversationListDialog, when
from glmtui.ui.dialogs.list_dialog import MOST_ROWS

PAUSE, BATCH_SECONDS = 0.05, 0.1
SHOWN_BEFORE, WIDEST = 24, 90  # cells of a place in a text


class SearchDialog(ConversationListDialog):
    """The search through all conversations: what has the words, newest first, as it is found."""

    def __init__(self, paths: Callable[[], list[Path]], words: str = "") -> None:
        keys = _("Enter goes there   Esc closes")
        title, placeholder = _("Find in all conversations"), _("Type what to find")
        super().__init__(title, words, placeholder=placeholder, foot=keys)
        self._paths = paths
        self._hits: list[Hit] = []
        self._files: list[Path] | None = None
        self._search = 0  # counts them; an earlier one is not listened to

    def on_mount(self) -> None:
        """Begins with the words it was given."""
        self._begin()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Searches as it is typed."""
        self._begin()

    def _begin(self) -> None:
        self._search += 1
        self._hits, words = [], self.field.value.strip()
        self.list.clear_options()
        self.say(_("Searching …") if words else "")
        if words:
            self.set_timer(PAUSE, partial(self._start, self._search, words))

    def _start(self, number: int, words: str) -> None:
        if number == self._search:
            work = (number, words, self.app.call_later)
            threading.Thread(target=self._work, args=work, daemon=True).start()

    def _work(self, number: int, words: str, soon: Callable[..., object]) -> None:
        hits: list[Hit] = []
        count, told = 0, time.monotonic()
        try:
            if self._files is None:
                self._files = self._paths()
            for _path, found in search(self._files, words):
                hits += found
                count += len(found)
                if self._search != number or count >= MOST_ROWS:
                    break
                if hits and time.monotonic() - told > BATCH_SECONDS:
                    soon(self._add, number, hits)
                    hits, told = [], time.monotonic()
        except StoreError as error:
            soon(self._end, number, str(error))
        else:
            soon(self._add, number, hits)
            soon(self._end, number, "")

    def _add(self, number: int, hits: Iterable[Hit]) -> None:
        if number != self._search:
            return
        now = datetime.now(timezone.utc)
        last = self._hits[-1].conversation_id if self._hits else ""
        options = []
        for hit in hits:
            options.append(Option(_hit_label(hit, now, hit.conversation_id != last)))
            last = hit.conversation_id
            self._hits.append(hit)
        self.list.add_options(options)
        if self._hits and self.list.highlighted is None:
            self.list.highlighted = 0

    def _end(self, number: int, wrong: str) -> None:
        if number != self._search:
            return
        count = len(self._hits)
        if wrong or not count:
            self.say(wrong or _("Nothing has it."))
        elif count >= MOST_ROWS:
            self.say(
                _("The newest {count} places; type on to narrow them down").format(count=count)
            )
        else:
            self.say(ngettext("{count} place", "{count} places", count).format(count=count))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Goes to the highlighted place."""
        self._go(self.list.highlighted)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Goes to the place that was clicked."""
        self._go(event.option_index)

    def _go(self, at: int | None) -> None:
        if at is not None:
            hit = self._hits[at]
            self.dismiss(
                ConversationEntry(hit.conversation_id, hit.message_id, self.field.value.strip())
            )


def _hit_label(hit: Hit, now: datetime, first: bool) -> Content:
    """The place, under its conversation's title where it is the first of it."""
    before, after = _flowing(hit.before)[-SHOWN_BEFORE:], _flowing(hit.after)
    place = Content.assemble(before, (_flowing(hit.found), "$text-accent bold"), after)
    if not hit.message_id:
        lines = [when(hit.updated, now) + "  " + place]
    else:
        lines = ["          " + place]
        if first:
            lines.insert(
                0, Content.assemble(when(hit.updated, now), "  ", sanitize_line(hit.title))
            )
    return Content("\n").join(line.truncate(WIDEST, ellipsis=True) for line in lines)


def _flowing(text: str) -> str:
    """A piece of a text on one line, the blanks at its ends kept."""
    return re.sub(r"\s+", " ", sanitize(text))
