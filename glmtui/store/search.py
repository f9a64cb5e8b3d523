"""Full-text search in conversation files: a file is parsed only if its bytes contain the text.

The search ignores case and matches parts of words, so that Chinese needs no word breaks.
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
from glmtui.store.conversation_file import MAX_BYTES, decode_utf8, modified_at
from glmtui.store.conversation_format import from_table, loads
from glmtui.store.file_names import format_of, id_of
from glmtui.system.durable_files import read_bounded

AROUND = 60
"""Characters of context before and after a match."""
MOST_IN_ONE = 5
"""Matches that are returned per conversation."""

_Row: TypeAlias = tuple[str, str, str]  # id, role, content
_BETWEEN = "\n[[messages]]"


@dataclass(frozen=True, slots=True)
class Hit:
    """A message that contains the text; if no message does, a title (`message_id` is then empty).

    Attributes:
        title, updated: of the conversation.
        before, found, after: the first match with its context, as written.
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
    """Searches files in the given order for `words` as one string.

    Yields every file, also those without hits, so that a caller can stop at any file. Files that
    cannot be read have no hits.
    """
    query = Query(words)
    for path in paths:
        try:
            yield path, query.hits(path)
        except (OSError, StoreError):
            yield path, []


class Query:
    """The text to search for, in the forms in which files may contain it."""

    def __init__(self, words: str) -> None:
        self.words = words.strip()
        self._pattern = re.compile(re.escape(self.words), re.IGNORECASE)
        plain = self.words.lower()
        escaped = plain.replace("\\", "\\\\").replace('"', '\\"')
        self._forms = tuple({plain, escaped})
        # bytes.lower() changes ASCII letters only.
        cased = any(char > "\x7f" and char.lower() != char.upper() for char in self.words)
        self._bytes = () if cased else tuple(form.encode(errors="replace") for form in self._forms)

    def hits(self, path: Path) -> list[Hit]:
        """The matches in a file.

        Raises:
            OSError, StoreError: the file cannot be read.
        """
        if not self.words:
            return []
        data = read_bounded(path, MAX_BYTES)
        if self._bytes:
            lower = data.lower()
            # Another program's JSON may escape letters, as in \\u4f60.
            if not any(form in lower for form in self._bytes) and b"\\u" not in data:
                return []
        text = decode_utf8(data)
        if not self._bytes and not self._may_contain(text) and "\\u" not in text:
            return []
        title, messages = self._read(text, path)
        facts = (id_of(path), title, modified_at(path.stat()))
        for rows in (messages, [("", "", title)]):
            hits = (self._hit(row, facts) for row in rows)
            if found := list(islice(filter(None, hits), MOST_IN_ONE)):
                return found
        return []

    def _may_contain(self, text: str) -> bool:
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
        """The title and the messages; from TOML only messages that may match."""
        if format_of(path) == "toml":
            with contextlib.suppress(ValueError, LookupError):  # not written by this program
                return self._read_toml(text)
        conversation = loads(text, format_of(path))
        return conversation.title, [(m.id, m.role, m.content) for m in conversation.messages]

    def _read_toml(self, text: str) -> tuple[str, list[_Row]]:
        """As `_read`, parsing only messages that may match.

        Raises:
            ValueError, LookupError: the file must be parsed as a whole.
        """
        head, *messages = text.split(_BETWEEN)
        if "[[messages]]" in head:
            raise ValueError("the first message is not where it should be")
        first = messages[:1] if "\ntitle = " not in head else []
        title = from_table(tomli.loads(_BETWEEN.join([head, *first]))).title
        rows: list[_Row] = []
        for n, part in enumerate(messages, 1):
            if self._may_contain(part[part.index("\ncontent = ") :]):
                (row,) = tomli.loads(_BETWEEN + part)["messages"]
                if self._pattern.search(row["content"]):
                    rows.append((str(row.get("id") or f"m{n}"), str(row["role"]), row["content"]))
                if len(rows) == MOST_IN_ONE:
                    break
        return title, rows
