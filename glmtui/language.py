"""The language the program speaks: English as it is written, others from gettext catalogues.

`_("Some {thing}").format(thing=...)` is looked up when it is shown; `N_` marks a text that stands
in a table and is looked up later. Texts are never f-strings: Babel extracts them as they stand.
Catalogues lie in ``glmtui/locale/<language>/LC_MESSAGES/glmtui.mo``. Knows no settings.
"""

from __future__ import annotations

import gettext
import locale
import os
from pathlib import Path

LANGUAGES = ("en", "zh")
FOLDER = Path(__file__).parent / "locale"

_catalogue = gettext.NullTranslations()


def set_language(language: str) -> str:
    """Sets the language for the whole process: "en", "zh", or "auto" for the locale's.

    Returns:
        Which it is now; "en" where there is no catalogue for the one asked for.
    """
    global _catalogue
    asked = _of_locale() if language == "auto" else language
    found = asked in LANGUAGES[1:] and gettext.find("glmtui", str(FOLDER), [asked])
    _catalogue = gettext.NullTranslations()
    if found:
        _catalogue = gettext.translation("glmtui", str(FOLDER), [asked])
    return asked if found else "en"


def _of_locale() -> str:
    """The two letters of the language that messages are wanted in, as POSIX says."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if value := os.environ.get(name):
            return value[:2].lower()
    return (locale.getlocale()[0] or "en")[:2].lower()


def _(text: str) -> str:
    """`text` in the language that is spoken."""
    return _catalogue.gettext(text) if text else ""


def ngettext(one: str, many: str, count: int) -> str:
    """The one of both that goes with `count`, in the language that is spoken."""
    return _catalogue.ngettext(one, many, count)


def N_(text: str) -> str:  # noqa: N802 - gettext's name
    """`text` as it is, marked for translation; `_` looks it up where it is shown."""
    return text
