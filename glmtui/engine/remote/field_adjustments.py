"""Adjusts the fields of requests to what a server accepts: renames or drops fields.

The server's error text says which field it refuses. If it objects to the *value* of a field,
nothing is adjusted: the value is the user's setting, which the error message then names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

SETTING_OF_FIELD = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "seed": "seed",
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "repetition_penalty": "repetition_penalty",
    "repeat_penalty": "repetition_penalty",
}
"""Request fields, with the name of the setting that each comes from."""

_RENAMES = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_UNREQUESTED = ("stream_options", "return_progress")  # not from settings: dropped if just mentioned
_ADJUSTABLE = (*SETTING_OF_FIELD, *_UNREQUESTED, "stream")

_UNSUPPORTED = re.compile(
    r"un(?:supported|known|recogni[sz]ed|expected|available)|not (?:be )?(?:supported|permitted"
    r"|allowed|recogni[sz]ed|implemented|available|known|a valid (?:param|arg|field|prop|option))"
    r"|(?:does|do|is|are|can|must|should)(?:n't| not|not) (?:\w+ )?"
    r"(?:support|accept|allow|take|use|set|know)"
    r"|no longer|deprecated|extra[_ ](?:inputs?|fields?|forbidden)|forbidden|additional propert"
    r"|invalid (?:param(?:eter)?|arg(?:ument)?|field|property)\b(?! value)|only the default"
    r"|use ['`\"]?max_|cannot both|not both|only one of|不支持|未知|无法识别|不允许|仅支持",
    re.IGNORECASE,
)
_VALUE_RANGE = re.compile(
    r"must be|should be|(?:less|greater|larger|smaller|higher|lower|more) than|at (?:most|least)"
    r"|between|out of range|in the range|m(?:ax|in)imum|too (?:big|large|small|high|low|many)"
    r"|exceed|[<>]=?\s*-?\d|必须|范围|超出|大于|小于|不能超过",
    re.IGNORECASE,
)
_STREAM = re.compile(
    r"[\"'`]stream[\"'`]|\bstream\s*[=:]\s*true|\bstream(?:ing)? (?:is |mode )?(?:not|un)"
    r"|support(?:s|ed)? stream",
    re.IGNORECASE,
)
_EXCLUSIVE = re.compile(r"both|only one|one of", re.IGNORECASE)


class FieldAdjustments:
    """The fields that one server refuses; shared by all requests to it.

    Attributes:
        dropped: names of fields that are left out; "stream" is sent as False instead.
        renamed: from our name of a field to the server's.
    """

    def __init__(self) -> None:
        self.dropped: frozenset[str] = frozenset()
        self.renamed: Mapping[str, str] = {}

    def apply(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the request with fields renamed and dropped for this server."""
        named = {self.renamed.get(name, name): value for name, value in body.items()}
        if "stream" in self.dropped:
            named["stream"] = False
        dropped = self.dropped - {"stream"}
        if named.get("stream") is False:
            dropped |= {"stream_options"}
        return {name: value for name, value in named.items() if name not in dropped}

    def merge(self, other: FieldAdjustments) -> None:
        """Add the adjustments of `other`."""
        self.dropped |= other.dropped
        self.renamed = {**self.renamed, **other.renamed}

    def copy(self) -> FieldAdjustments:
        adjustments = FieldAdjustments()
        adjustments.merge(self)
        return adjustments

    def adjust(self, body: Mapping[str, Any], words: str) -> bool:
        """Add an adjustment that avoids the error with the text `words`.

        Args:
            body: the refused request, as returned by `apply`.

        Returns:
            False if the error is not about a field that can be renamed or dropped.
        """
        candidates = set(_ADJUSTABLE) - self.dropped  # a dropped "stream" is in the body as False
        named = [name for name in mentioned_fields(words, body) if name in candidates]
        unrequested = [name for name in named if name in _UNREQUESTED]
        if unrequested:
            self.dropped |= set(unrequested)
            return True
        if "top_k" in named and body["top_k"] == -1:  # -1 disables the filter, as does no field
            self.dropped |= {"top_k"}
            return True
        if not _UNSUPPORTED.search(words) or not named:
            return False
        if len(named) > 1 and _EXCLUSIVE.search(words):
            self.dropped |= {named[-1]}
            return True
        if len(named) > 1 and "stream" in named:
            named.remove("stream")
        for name in named:
            other = _RENAMES.get(name)
            if other and name not in self.renamed.values():
                self.renamed = {**self.renamed, name: other}
            else:
                self.dropped |= {name}
        return True


def mentioned_fields(words: str, fields: Iterable[str]) -> list[str]:
    """The fields that an error text names, in the order of `fields`."""
    return [
        name
        for name in fields
        if (_STREAM if name == "stream" else re.compile(rf"(?<!\w){name}(?!\w)")).search(words)
    ]


def is_about_value(words: str) -> bool:
    """Whether an error text is about a value out of range."""
    return bool(_VALUE_RANGE.search(words)) and not _UNSUPPORTED.search(words)
