"""SearchDialog: full-text search in all saved conversations.

The search runs on a thread and adds matches while it goes on. Typing starts a new search.
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
from glmtui.ui.dialogs.conversation_picker import (
    ConversationChoice,
    ConversationListDialog,
    age_column,
)
from glmtui.ui.dialogs.list_dialog import MAX_ROWS

DELAY_SECONDS = 0.05
"""Time from a key to the start of the search, in which more keys may follow."""
BATCH_SECONDS = 0.1
"""Time between two updates of the list."""
MAX_BEFORE, MAX_WIDTH = 24, 90
"""Characters shown before the match, and cells of a row."""


class SearchDialog(ConversationListDialog):
    """Lists the messages that contain the query, of the newest conversation first.

    Args:
        paths: returns the conversation files, newest first. Called on the search thread.
    """

    def __init__(self, paths: Callable[[], list[Path]], query: str = "") -> None:
        keys = _("Enter opens   Esc closes")
        title, placeholder = _("Find in all conversations"), _("Type to search")
        super().__init__(title, query, placeholder=placeholder, footer=keys)
        self._paths = paths
        self._hits: list[Hit] = []
        self._files: list[Path] | None = None
        self._search_number = 0  # of the current search; results of earlier ones are ignored

    def on_mount(self) -> None:
        self._begin()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._begin()

    def _begin(self) -> None:
        self._search_number += 1
        self._hits, query = [], self.field.value.strip()
        self.list.clear_options()
        self.set_status(_("Searching …") if query else "")
        if query:
            self.set_timer(DELAY_SECONDS, partial(self._start, self._search_number, query))

    def _start(self, number: int, query: str) -> None:
        if number == self._search_number:
            work = (number, query, self.app.call_later)
            threading.Thread(target=self._work, args=work, daemon=True).start()

    def _work(self, number: int, query: str, soon: Callable[..., object]) -> None:
        hits: list[Hit] = []
        count, shown_at = 0, time.monotonic()
        try:
            if self._files is None:
                self._files = self._paths()
            for _path, found in search(self._files, query):
                hits += found
                count += len(found)
                if self._search_number != number or count >= MAX_ROWS:
                    break
                if hits and time.monotonic() - shown_at > BATCH_SECONDS:
                    soon(self._add, number, hits)
                    hits, shown_at = [], time.monotonic()
        except StoreError as error:
            soon(self._end, number, str(error))
        else:
            soon(self._add, number, hits)
            soon(self._end, number, "")

    def _add(self, number: int, hits: Iterable[Hit]) -> None:
        if number != self._search_number:
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

    def _end(self, number: int, error_text: str) -> None:
        if number != self._search_number:
            return
        count = len(self._hits)
        if error_text or not count:
            self.set_status(error_text or _("No matches."))
        elif count >= MAX_ROWS:
            self.set_status(
                _("Newest {count} matches; type more to narrow the search").format(count=count)
            )
        else:
            text = ngettext("{count} match", "{count} matches", count)
            self.set_status(text.format(count=count))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self._answer(self.list.highlighted)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self._answer(event.option_index)

    def _answer(self, at: int | None) -> None:
        if at is not None:
            hit = self._hits[at]
            self.dismiss(
                ConversationChoice(hit.conversation_id, hit.message_id, self.field.value.strip())
            )


def _hit_label(hit: Hit, now: datetime, first: bool) -> Content:
    """The text around a match; above it the title, if this is the first match of a conversation.

    Files are searched without sanitising them, so the texts of a hit are sanitised here.
    """
    before, after = _single_line(hit.before)[-MAX_BEFORE:], _single_line(hit.after)
    excerpt = Content.assemble(before, (_single_line(hit.found), "$text-accent bold"), after)
    if not hit.message_id:
        lines = [age_column(hit.updated, now) + "  " + excerpt]
    else:
        lines = ["          " + excerpt]
        if first:
            lines.insert(
                0, Content.assemble(age_column(hit.updated, now), "  ", sanitize_line(hit.title))
            )
    return Content("\n").join(line.truncate(MAX_WIDTH, ellipsis=True) for line in lines)


def _single_line(text: str) -> str:
    """`text` sanitised and on one line; unlike `sanitize_line`, keeps spaces at its ends."""
    return re.sub(r"\s+", " ", sanitize(text))
