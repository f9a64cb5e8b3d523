"""Bytes of a file or a pipe to text: decoded where it is known how, else refused.

Text in a wrong encoding reads as rubbish, which a model would answer all the same.
"""

from __future__ import annotations

import codecs
import locale
import os
import re
from collections.abc import Iterator, Mapping

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before that of UTF-16, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_WIDER = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "iso8859-1": "cp1252",
    "shift_jis": "cp932",
}
"""Encodings that hold all of another one; what others write as the latter is often in them."""

# Some of them decode any bytes at all, so that a picture would be text.
_NO_TEXT = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x9f]")


class UnknownEncoding(ValueError):
    """The bytes are no text, or in an encoding that nothing tells of."""


def decode_text(data: bytes, environ: Mapping[str, str] = os.environ) -> str:
    """The text of `data`, without a byte order mark.

    It is in the encoding that a byte order mark says, or in UTF-8, or in the locale's encoding.
    Raises UnknownEncoding.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _without_nul(_decoded(data[len(mark) :], encoding))
    try:
        return _without_nul(data.decode("utf-8"))
    except UnicodeDecodeError:
        pass
    for encoding in _of_the_locale(environ):
        try:
            text = _decoded(data, encoding)
        except UnknownEncoding:
            continue
        if not _NO_TEXT.search(text):
            return text
    raise UnknownEncoding("neither UTF-8 nor in the encoding of the locale")


def _of_the_locale(environ: Mapping[str, str]) -> Iterator[str]:
    """Encodings other than UTF-8: that in force, then what the environment asks for.

    A locale that is not installed here, as SSH often brings one, is not in force.
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
            yield _WIDER.get(name, name)


def _decoded(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except (LookupError, ValueError) as error:  # the former of a codec that is not one of texts
        raise UnknownEncoding(f"it is not {encoding}") from error


def _without_nul(text: str) -> str:
    """`text`. Raises UnknownEncoding for a NUL: it is UTF-16 without a mark, or no text at all."""
    if "\0" in text:
        raise UnknownEncoding("there are NUL characters in it")
    return text
