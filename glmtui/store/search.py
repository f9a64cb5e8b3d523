"""Full-text search over conversation files: their bytes first, what stands in them only on a hit.

Knows how files are written, no folder and no screen. Case does not matter, and any part of a word
is found, so that Chinese needs no word breaks.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import tomli

from glmtui.errors import StoreError
from glmtui.store.conversation_file import MAX_BYTES, text_of, written_at
from glmtui.store.file_names import format_of, id_of
from glmtui.store.format import from_table, loads
from glmtui.system.durable_files import read_bounded

AROUND = 60
"""Characters shown before and after what is found."""
MOST_IN_ONE = 5
"""Hits of one conversation that are given."""

_Row: TypeAlias = tuple[str, str, str]  # id, role, content
_BETWEEN = "\n[[messages]]"


@dataclass(frozen=True, slots=True)
class Hit:
    """A message that has the words, or where none has, a title (with the id of no message).

    Attributes:
        title, updated: of the conversation.
        before, found, after: the first place they stand at, as it is written.
    """

    conversation_id: str
    title: str
    updated: datetime
    message_id: str
    role: str
    before: str
    found: str
    after: str


def search(paths: Iterable[Path], words: str) -> Iterator[tuple[Path, list[Hit]]]:
    """For each file, in this order, what it has of `words`, which must stand together.

    Files without a hit come too, with none, so that a caller can stop between two. What cannot be
    read has none.
    """
    query = Query(words)
    for path in paths:
        try:
            yield path, query.hits(path)
        except (OSError, StoreError):
            yield path, []


class Query:
    """What is sought, in the forms it may stand in a file."""

    def __init__(self, words: str) -> None:
        self.words = words.strip()
        self._pattern = re.compile(re.escape(self.words), re.IGNORECASE)
        plain = self.words.lower()
        escaped = plain.replace("\\", "\\\\").replace('"', '\\"')
        self._forms = tuple({plain, escaped})
        # Of bytes only those of ASCII have a case.
        cased = any(char > "\x7f" and char.lower() != char.upper() for char in self.words)
        self._bytes = () if cased else tuple(form.encode(errors="replace") for form in self._forms)

    def hits(self, path: Path) -> list[Hit]:
        """What a file has of it. Raises OSError, StoreError."""
        if not self.words:
            return []
        data = read_bounded(path, MAX_BYTES)
        if self._bytes:
            lower = data.lower()
            # Someone else's JSON may spell letters as \\u4f60.
            if not any(form in lower for form in self._bytes) and b"\\u" not in data:
                return []
        text = text_of(data)
        if not self._bytes and not self._may_have(text) and "\\u" not in text:
            return []
        title, messages = self._read(text, path)
        facts = (id_of(path), title, written_at(path.stat()))
        for rows in (messages, [("", "", title)]):
            hits = (self._hit(row, facts) for row in rows)
            if found := list(islice(filter(None, hits), MOST_IN_ONE)):
                return found
        return []

    def _may_have(self, text: str) -> bool:
        text = text.lower()
        return any(form in text for form in self._forms)

    def _hit(self, row: _Row, facts: tuple[str, str, datetime]) -> Hit | None:
        message_id, role, text = row
        if (found := self._pattern.search(text)) is None:
            return None
        start, end = found.span()
        before, after = text[max(0, start - AROUND) : start], text[end : end + AROUND]
        return Hit(*facts, message_id, role, before, found.group(), after)

    def _read(self, text: str, path: Path) -> tuple[str, Iterable[_Row]]:
        """The title, and the messages, in TOML only those that have it."""
        if format_of(path) == "toml":
            with contextlib.suppress(ValueError, LookupError):  # not as we write it
                return self._read_toml(text)
        conversation = loads(text, format_of(path))
        return conversation.title, [(m.id, m.role, m.content) for m in conversation.messages]

    def _read_toml(self, text: str) -> tuple[str, list[_Row]]:
        """As `_read`. Raises ValueError or LookupError where only the whole would tell."""
        head, *messages = text.split(_BETWEEN)
        if "[[messages]]" in head:
            raise ValueError("the first message is not where it should be")
        first = messages[:1] if "\ntitle = " not in head else []
        title = from_table(tomli.loads(_BETWEEN.join([head, *first]))).title
        rows: list[_Row] = []
        for n, part in enumerate(messages, 1):
            if self._may_have(part[part.index("\ncontent = ") :]):
                (row,) = tomli.loads(_BETWEEN + part)["messages"]
                if self._pattern.search(row["content"]):
                    rows.append((str(row.get("id") or f"m{n}"), str(row["role"]), row["content"]))
                if len(rows) == MOST_IN_ONE:
                    break
        return title, rows
