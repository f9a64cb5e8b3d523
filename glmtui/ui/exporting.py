"""A conversation written to a file of the user's choice, as the file's ending says."""

from __future__ import annotations

from pathlib import Path

from glmtui.chat import Conversation
from glmtui.errors import StoreError
from glmtui.language import _
from glmtui.store import dumps, to_markdown
from glmtui.store.durable import create_file, utf8
from glmtui.store.naming import file_name, format_of


def export(conversation: Conversation, path: Path | None) -> Path:
    """Writes where no file is yet, a whole file or none: .toml and .json exactly, else Markdown.

    Args:
        path: None makes a name of the title.

    Raises:
        StoreError: there is a file, or it cannot be written.
    """
    path = path or Path(file_name(conversation, "toml")).with_suffix(".md")
    exact = path.suffix in (".toml", ".json")
    text = dumps(conversation, format_of(path)) if exact else to_markdown(conversation)
    try:
        create_file(path, utf8(text))
    except OSError as error:
        said = _("{path} cannot be written: {cause}")
        raise StoreError(said.format(path=path, cause=error.strerror)) from error
    return path.resolve()
