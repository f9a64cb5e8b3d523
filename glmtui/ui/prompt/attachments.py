"""Text files that a question names as @path: found, checked, and added to it.

Knows files, no prompt. A word after @ that is no file and does not look like one is just a word.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from glmtui.errors import UsageError
from glmtui.language import _
from glmtui.sanitize import sanitize, sanitize_line
from glmtui.system.durable_files import read_bounded
from glmtui.system.text_encoding import UnknownEncoding, decode_text
from glmtui.ui.prompt.argument_values import file_size

MOST_BYTES = 256_000

_NAMED = re.compile(r'(?<!\S)@(?:"([^"\n]+)"|(\S+))')
_LOOKS_LIKE_A_FILE = re.compile(
    r"(?:.*/)?[\w.+ -]*\w\.\w{1,8}|(?:~|\.{1,2})?/.*"
    r"|[^/'\"()<>{}]+/[^/'\"()<>{}].*"
)
_LANGUAGES = {".md": "markdown", ".yml": "yaml", ".h": "c", ".txt": "", ".log": ""}


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that is named.

    Attributes:
        name: as it was typed.
        size: in bytes; 0 where it cannot be added.
        wrong: why it cannot be; empty where it can.
        sure: whether it must be meant as a file; what is not there may be just a word.
    """

    name: str
    size: int = 0
    wrong: str = ""
    sure: bool = True

    @property
    def words(self) -> str:
        """The chip: "notes.md 3.2 kB", or what is wrong."""
        return f"{sanitize_line(self.name)} {self.wrong or file_size(self.size)}"


def named(text: str) -> tuple[str, ...]:
    """The words after @ in a text, each once."""
    found = (_bare(quoted or word) for quoted, word in _NAMED.findall(text))
    return tuple(dict.fromkeys(found))


def look(name: str) -> Attachment | None:
    """The file of this name, checked; None for a word that stands for none."""
    if not _exists(name) and not _LOOKS_LIKE_A_FILE.fullmatch(name):
        return None
    try:
        content(name)
    except UsageError as error:
        return Attachment(
            name, wrong=error.message, sure=_exists(name) and not _path(name).is_dir()
        )
    return Attachment(name, size=_path(name).stat().st_size)


def content(name: str) -> str:
    """A file's text, made safe to show. Raises UsageError with what is wrong with it."""
    path = _path(name)
    try:
        if path.is_dir():
            raise UsageError(_("is a folder"))
        data = read_bounded(path, MOST_BYTES)
        return sanitize(decode_text(data))
    except FileNotFoundError as error:
        raise UsageError(_("is not there")) from error
    except UnknownEncoding as error:
        said = _("is not text") if b"\0" in data else _("is not UTF-8 text")
        raise UsageError(said) from error
    except (OSError, ValueError) as error:
        if _size(path) > MOST_BYTES:
            sizes = {"size": file_size(_size(path)), "limit": file_size(MOST_BYTES)}
            said = _("is {size}, over the limit of {limit}").format(**sizes)
            raise UsageError(said) from error
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(_("cannot be read: {why}").format(why=why)) from error


def with_files(text: str, names: tuple[str, ...]) -> str:
    """`text` with these files behind it, each in a block under its name. Raises UsageError."""
    return "\n\n".join([text, *(_block(name, content(name)) for name in names)])


def _block(name: str, text: str) -> str:
    """A fenced block whose fence nothing in the text ends."""
    longest = max(map(len, re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    suffix = Path(name).suffix.lower()
    language = _LANGUAGES.get(suffix, suffix[1:] if suffix[1:].isalnum() else "")
    text = text if text.endswith("\n") else text + "\n"
    return f"{sanitize_line(name)}:\n{fence}{language}\n{text}{fence}"


def _bare(word: str) -> str:
    """A word without the punctuation behind it, unless there is a file of just this name."""
    bare = word.rstrip(".,;:!?)]}>'\"，。；：！？）")
    return word if not bare or _exists(word) else bare


def _path(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # nobody of that name
        return Path(name)


def _exists(name: str) -> bool:
    try:
        return os.path.lexists(_path(name))
    except (OSError, ValueError):
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return 0
