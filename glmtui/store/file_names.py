"""Names of conversation files: ``<date>-<slug>-<id>.toml``.

They are valid on every file system: letters and digits of any script, and at most 140 bytes with
every suffix that is ever added (eCryptfs allows 143).
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import unicodedata
from datetime import date, datetime
from pathlib import Path

from glmtui.chat import Conversation
from glmtui.store.conversation_format import FileFormat

SLUG_CHARACTERS = 40
SLUG_BYTES = 100

_WITH_ID = re.compile(r"(?:.*-)?([0-9a-f]{8})", re.DOTALL)


def file_name(conversation: Conversation, file_format: FileFormat) -> str:
    day, slug = _day(conversation.created), _slug(conversation.title)
    return f"{day}-{slug}-{conversation.id}.{file_format}"


def format_of(path: Path) -> FileFormat:
    """The format by the suffix; ``.bad`` after it is ignored."""
    return "toml" if ".toml" in path.suffixes else "json"


def id_of(path: Path) -> str:
    """The id at the end of the name; for a name without one, eight hex digits of its hash."""
    if match := _WITH_ID.fullmatch(path.stem):
        return match[1]
    return hashlib.blake2b(os.fsencode(path.name), digest_size=4).hexdigest()


def _day(created: datetime) -> date:
    """The day in local time."""
    try:
        return created.astimezone().date()
    except (ValueError, OverflowError):  # local time would be outside years 1 to 9999
        return created.date()


def _slug(title: str) -> str:
    """The letters and digits of a title, joined by hyphens."""
    characters = (
        char if unicodedata.category(char)[0] in "LMN" else "-"
        for char in unicodedata.normalize("NFKC", title.lower())
    )
    slug = re.sub("-+", "-", "".join(characters)).strip("-")[:SLUG_CHARACTERS]
    slug = slug.encode()[:SLUG_BYTES].decode(errors="ignore").strip("-") or "chat"
    try:
        os.fsencode(slug)
    except UnicodeEncodeError:  # the file system encoding has no such letters
        return "chat"
    return slug


def name_for_corrupt(path: Path) -> Path:
    """A free name for a file that cannot be parsed: ``NAME.bad``, ``NAME.bad2`` and so on."""
    names = (f"{path.name}.bad{n if n > 1 else ''}" for n in itertools.count(1))
    return next(at for name in names if not os.path.lexists(at := path.with_name(name)))
