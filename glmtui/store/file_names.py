"""The names of conversation files: ``<date>-<slug>-<id>.toml``. Touches no file itself.

A name is good on every file system: letters and digits of any script, at most 140 bytes with all
that is ever put behind it (eCryptfs allows 143).
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
from glmtui.store.format import FileFormat

SLUG_CHARACTERS = 40
SLUG_BYTES = 100

_WITH_ID = re.compile(r"(?:.*-)?([0-9a-f]{8})", re.DOTALL)


def file_name(conversation: Conversation, file_format: FileFormat) -> str:
    """The name for a new file."""
    day, slug = _day(conversation.created), _slug(conversation.title)
    return f"{day}-{slug}-{conversation.id}.{file_format}"


def format_of(path: Path) -> FileFormat:
    """TOML or JSON by the name, also that of a file set aside."""
    return "toml" if ".toml" in path.suffixes else "json"


def id_of(path: Path) -> str:
    """The id at the end of the name; of a name without one, eight digits made from it."""
    if match := _WITH_ID.fullmatch(path.stem):
        return match[1]
    return hashlib.blake2b(os.fsencode(path.name), digest_size=4).hexdigest()


def _day(created: datetime) -> date:
    """The day as the person's clock had it."""
    try:
        return created.astimezone().date()
    except (ValueError, OverflowError):  # the calendar ends within a day of it
        return created.date()


def _slug(title: str) -> str:
    """The letters and digits of a title, of any script, for a file name."""
    kept = (
        char if unicodedata.category(char)[0] in "LMN" else "-"
        for char in unicodedata.normalize("NFKC", title.lower())
    )
    slug = re.sub("-+", "-", "".join(kept)).strip("-")[:SLUG_CHARACTERS]
    slug = slug.encode()[:SLUG_BYTES].decode(errors="ignore").strip("-") or "chat"
    try:
        os.fsencode(slug)
    except UnicodeEncodeError:  # a locale without these letters
        return "chat"
    return slug


def free_name_aside(path: Path) -> Path:
    """Where to put a file that cannot be read: its name and ``.bad``, counted if there is one."""
    names = (f"{path.name}.bad{n if n > 1 else ''}" for n in itertools.count(1))
    return next(at for name in names if not os.path.lexists(at := path.with_name(name)))
