"""Attachments: text files that a question names as @path, and that are added to it.

A word after @ that neither is a file nor looks like a path is left as a word.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from glmtui.errors import UsageError
from glmtui.language import _
from glmtui.sanitize import sanitize
from glmtui.system.durable_files import read_bounded
from glmtui.system.text_encoding import UnknownEncoding, decode_text
from glmtui.ui.prompt.argument_values import format_file_size

MAX_BYTES = 256_000
"""Size of a file that can be attached: about 64,000 tokens of English, more than most models can
read."""

_AT_NAME = re.compile(r'(?<!\S)@(?:"([^"\n]+)"|(\S+))')
_LOOKS_LIKE_PATH = re.compile(
    r"(?:.*/)?[\w.+ -]*\w\.\w{1,8}|(?:~|\.{1,2})?/.*"
    r"|[^/'\"()<>{}]+/[^/'\"()<>{}].*"
)
_LANGUAGES = {".md": "markdown", ".yml": "yaml", ".h": "c", ".txt": "", ".log": ""}


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that the text names.

    Attributes:
        name: as it was typed.
        size: in bytes; 0 if it cannot be attached.
        error: why it cannot be attached; "" if it can.
        is_certain: whether the word can only be meant as a file. A file that does not exist may
            be just a word.
    """

    name: str
    size: int = 0
    error: str = ""
    is_certain: bool = True

    @property
    def label(self) -> str:
        """Name and size, or name and error: "notes.md 3.2 kB"."""
        return f"{self.name} {self.error or format_file_size(self.size)}"


def attachment_names(text: str) -> tuple[str, ...]:
    """The words after @ in a text, each of them once."""
    names = (_without_punctuation(quoted or word) for quoted, word in _AT_NAME.findall(text))
    return tuple(dict.fromkeys(names))


def find_attachment(name: str) -> Attachment | None:
    """Checks a file; None if `name` is just a word."""
    if not _exists(name) and not _LOOKS_LIKE_PATH.fullmatch(name):
        return None
    try:
        read_attachment(name)
    except UsageError as error:
        return Attachment(
            name, error=error.message, is_certain=_exists(name) and not _path(name).is_dir()
        )
    return Attachment(name, size=_path(name).stat().st_size)


def read_attachment(name: str) -> str:
    """The sanitised text of a file. Raises UsageError with the reason if it cannot be attached."""
    path = _path(name)
    try:
        if path.is_dir():
            raise UsageError(_("is a folder"))
        data = read_bounded(path, MAX_BYTES)
        return sanitize(decode_text(data))
    except FileNotFoundError as error:
        raise UsageError(_("not found")) from error
    except UnknownEncoding as error:
        reason = _("is not text") if b"\0" in data else _("is not UTF-8 text")
        raise UsageError(reason) from error
    except (OSError, ValueError) as error:
        if _size(path) > MAX_BYTES:
            sizes = {"size": format_file_size(_size(path)), "limit": format_file_size(MAX_BYTES)}
            reason = _("is too large: {size} (limit {limit})").format(**sizes)
            raise UsageError(reason) from error
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(_("cannot be read: {why}").format(why=why)) from error


def with_attachments(text: str, names: tuple[str, ...]) -> str:
    """`text`, followed by the files in fenced code blocks. Raises UsageError."""
    return "\n\n".join([text, *(_block(name, read_attachment(name)) for name in names)])


def _block(name: str, text: str) -> str:
    """The name and a code block; its fence is longer than any fence in the text."""
    longest = max(map(len, re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    suffix = Path(name).suffix.lower()
    language = _LANGUAGES.get(suffix, suffix[1:] if suffix[1:].isalnum() else "")
    text = text if text.endswith("\n") else text + "\n"
    return f"{name}:\n{fence}{language}\n{text}{fence}"


def _without_punctuation(word: str) -> str:
    """A word without the punctuation at its end, unless a file has exactly this name."""
    stripped = word.rstrip(".,;:!?)]}>'\"，。；：！？）")
    return word if not stripped or _exists(word) else stripped


def _path(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # ~user of an unknown user
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
