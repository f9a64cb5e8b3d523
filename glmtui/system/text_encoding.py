"""Decodes the bytes of a file or a pipe, or refuses them if their encoding is unknown.

Guessing is not an option: a model would answer to garbled text, too.
"""

from __future__ import annotations

import codecs
import locale
import os
import re
from collections.abc import Iterator, Mapping

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark is a prefix of it
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SUPERSETS = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "iso8859-1": "cp1252",
    "shift_jis": "cp932",
}
"""Supersets of encodings. Text declared as the smaller one is often in the larger one."""

# Some single-byte encodings decode any bytes, even those of an image.
_BINARY_CHARACTERS = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x9f]")


class UnknownEncoding(ValueError):
    """The bytes are not text, or their encoding cannot be determined."""


def decode_text(data: bytes, environ: Mapping[str, str] = os.environ) -> str:
    """Decode `data` by its byte order mark, which is removed, else as UTF-8 or as the locale says.

    Raises UnknownEncoding.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return _refuse_nul(_decode(data[len(mark) :], encoding))
    try:
        return _refuse_nul(data.decode("utf-8"))
    except UnicodeDecodeError:
        pass
    for encoding in _locale_encodings(environ):
        try:
            text = _decode(data, encoding)
        except UnknownEncoding:
            continue
        if not _BINARY_CHARACTERS.search(text):
            return text
    raise UnknownEncoding("neither UTF-8 nor in the encoding of the locale")


def _locale_encodings(environ: Mapping[str, str]) -> Iterator[str]:
    """Encodings other than UTF-8: of the current locale, then of the environment variables.

    These differ if the locale is not installed on this machine, which is common over SSH.
    """
    named = (environ.get(name, "") for name in ("LC_ALL", "LC_CTYPE", "LANG"))
    codesets = [locale.getpreferredencoding(False)]
    codesets += [name.partition(".")[2].partition("@")[0] for name in named]
    for codeset in filter(None, codesets):
        try:
            name = codecs.lookup(codeset).name
        except (LookupError, ValueError):
            continue
        if name not in ("utf-8", "ascii"):
            yield _SUPERSETS.get(name, name)


def _decode(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except (LookupError, ValueError) as error:  # LookupError: a codec that does not decode text
        raise UnknownEncoding(f"it is not valid {encoding}") from error


def _refuse_nul(text: str) -> str:
    """`text`. Raises UnknownEncoding for a NUL: it is UTF-16 without a mark, or binary."""
    if "\0" in text:
        raise UnknownEncoding("it contains NUL characters")
    return text
