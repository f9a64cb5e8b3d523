"""The language of the user interface: English, or a translation from a gettext catalogue.

Use ``_("Some {thing}").format(thing=...)``, never f-strings: Babel extracts the texts from the
source code. Catalogues are in ``glmtui/locale/<language>/LC_MESSAGES``: edit glmtui.po, then
run ``python -m tests.support.catalogue``, which makes glmtui.mo.
"""

from __future__ import annotations

import gettext
import locale
import os
from pathlib import Path
from typing import Literal, get_args

Language = Literal["en", "zh"]
"""Languages of the interface. All but the first, which the source code is in, have a catalogue."""
LANGUAGES: tuple[Language, ...] = get_args(Language)
LOCALE_FOLDER = Path(__file__).parent / "locale"

_catalogue = gettext.NullTranslations()


def set_language(language: str) -> str:
    """Set the language of the whole process: one of `LANGUAGES`, or "auto" for that of the locale.

    Returns:
        The language that is set: "en" if there is no catalogue for the requested one.
    """
    global _catalogue
    requested = _locale_language() if language == "auto" else language
    found = requested in LANGUAGES[1:] and gettext.find("glmtui", str(LOCALE_FOLDER), [requested])
    _catalogue = gettext.NullTranslations()
    if found:
        _catalogue = gettext.translation("glmtui", str(LOCALE_FOLDER), [requested])
    return requested if found else "en"


def _locale_language() -> str:
    """The two-letter language of messages, by the POSIX order of environment variables."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if value := os.environ.get(name):
            return value[:2].lower()
    return (locale.getlocale()[0] or "en")[:2].lower()


def _(text: str) -> str:
    """Translate `text`."""
    return _catalogue.gettext(text) if text else ""


def ngettext(singular: str, plural: str, count: int) -> str:
    """Translate the form that `count` requires."""
    return _catalogue.ngettext(singular, plural, count)


def N_(text: str) -> str:  # noqa: N802 - gettext's name
    """Mark `text` for extraction and return it as it is; translate it with `_` when displayed."""
    return text
