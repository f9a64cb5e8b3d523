"""The translation catalogues, extracted from the source code with Babel.

``python -m tests.support.catalogue`` updates and compiles every
``glmtui/locale/*/LC_MESSAGES/glmtui.po``. New messages are untranslated and changed ones are marked
fuzzy: translate them, remove the mark, and run it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

from glmtui.commands import COMMANDS
from glmtui.config import SETTINGS
from glmtui.language import LANGUAGES, LOCALE_FOLDER

SOURCES = LOCALE_FOLDER.parent
CREATION_DATE = datetime(2026, 1, 1, tzinfo=timezone.utc)  # fixed, for reproducible files


def table_messages() -> Iterator[tuple[str, str]]:
    """Messages in tables, which are translated when displayed, and the file of each."""
    for command in COMMANDS:
        yield from (
            (command.title, "commands/command_table.py"),
            (command.help, "commands/command_table.py"),
        )
    for row in SETTINGS:
        yield from ((row.help, "config/settings.py"), (row.pattern_help, "config/settings.py"))


def template() -> Catalog:
    """All messages of the source code, untranslated."""
    catalogue = Catalog(project="glmtui", charset="utf-8", fuzzy=False)
    keywords = {"_": None, "N_": None, "ngettext": (1, 2)}
    found = extract_from_dir(str(SOURCES), [("**.py", "python")], keywords=keywords)
    for name, _line, message, _comments, _context in sorted(found, key=lambda row: row[:2]):
        catalogue.add(message, locations=[(name, None)])
    for message, name in table_messages():
        catalogue.add(message, locations=[(name, None)])
    return catalogue


def path(language: str) -> Path:
    """The .po file of a language."""
    return LOCALE_FOLDER / language / "LC_MESSAGES" / "glmtui.po"


def load(language: str) -> Catalog:
    """The catalogue of a language."""
    with path(language).open("rb") as file:
        return read_po(file, locale=language)


def update(language: str) -> None:
    """Update the catalogue of a language from the source code, and compile it."""
    file = path(language)
    file.parent.mkdir(parents=True, exist_ok=True)
    old = load(language) if file.exists() else Catalog(locale=language)
    catalogue = Catalog(
        locale=language,
        project="glmtui",
        version="1",
        header_comment=f"# The words of glmtui in {old.locale.english_name}.",
        msgid_bugs_address="none",
        last_translator="none",
        language_team="none",
        creation_date=CREATION_DATE,
        revision_date=CREATION_DATE,
        charset="utf-8",
        fuzzy=False,
    )
    for message in old:
        if message.id:
            catalogue[message.id] = message
    catalogue.update(template(), update_header_comment=False, update_creation_date=False)
    with file.open("wb") as target:
        write_po(target, catalogue, width=96, ignore_obsolete=True, include_lineno=False)
    with file.with_suffix(".mo").open("wb") as target:
        write_mo(target, catalogue)


if __name__ == "__main__":
    for name in LANGUAGES[1:]:
        update(name)
