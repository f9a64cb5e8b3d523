"""A conversation written to a file of the user's choice, as the file's ending says."""

from __future__ import annotations

from pathlib import Path

from glmtui.chat import Conversation
from glmtui.errors import StoreError
from glmtui.language import _
from glmtui.store import dumps, to_markdown
from glmtui.store.naming import file_name, format_of


def export(conversation: Conversation, path: Path | None) -> Path:
    """Writes where no file is yet: .toml and .json exactly, all else as Markdown.

    Args:
        path: None makes a name of the title.

    Raises:
        StoreError: there is a file, or it cannot be written.
    """
    path = path or Path(file_name(conversation, "toml")).with_suffix(".md")
    exact = path.suffix in (".toml", ".json")
    text = dumps(conversation, format_of(path)) if exact else to_markdown(conversation)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        said = _("{path} cannot be written: {cause}")
        raise StoreError(said.format(path=path, cause=error.strerror)) from error
    return path.resolve()
