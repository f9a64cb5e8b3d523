"""Fields of a request that a server does not take, by that name or at all.

Reads the words of a refusal, changes the request and remembers what was changed. What the words
say of a field's *value* is no such case: the setting is the user's, and is named in the hint.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

SETTINGS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "seed": "seed",
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "repetition_penalty": "repetition_penalty",
    "repeat_penalty": "repetition_penalty",
}
"""The setting of each field that a user can set."""

_RENAMES = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_OURS = ("stream_options", "return_progress")  # sent unasked: any word against them is enough
_OPTIONAL = (*SETTINGS, *_OURS, "stream")

_NOT_TAKEN = re.compile(
    r"un(?:supported|known|recogni[sz]ed|expected|available)|not (?:be )?(?:supported|permitted"
    r"|allowed|recogni[sz]ed|implemented|available|known|a valid (?:param|arg|field|prop|option))"
    r"|(?:does|do|is|are|can|must|should)(?:n't| not|not) (?:\w+ )?"
    r"(?:support|accept|allow|take|use|set|know)"
    r"|no longer|deprecated|extra[_ ](?:inputs?|fields?|forbidden)|forbidden|additional propert"
    r"|invalid (?:param(?:eter)?|arg(?:ument)?|field|property)\b(?! value)|only the default"
    r"|use ['`\"]?max_|cannot both|not both|only one of|不支持|未知|无法识别|不允许|仅支持",
    re.IGNORECASE,
)
_VALUE = re.compile(
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
_BOTH = re.compile(r"both|only one|one of", re.IGNORECASE)


class RequestFields:
    """What is known of the fields that one server takes; shared by all requests to it."""

    def __init__(self) -> None:
        self.dropped: frozenset[str] = frozenset()
        self.renamed: Mapping[str, str] = {}

    def apply(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The request with the names this server takes, without the fields it does not."""
        named = {self.renamed.get(name, name): value for name, value in body.items()}
        if "stream" in self.dropped:
            named["stream"] = False
        gone = self.dropped - {"stream"}
        if named.get("stream") is False:
            gone |= {"stream_options"}
        return {name: value for name, value in named.items() if name not in gone}

    def learn(self, other: RequestFields) -> None:
        """Takes over what was found out about this server meanwhile."""
        self.dropped |= other.dropped
        self.renamed = {**self.renamed, **other.renamed}

    def copy(self) -> RequestFields:
        """One that can be changed while it is not known whether that helps."""
        made = RequestFields()
        made.learn(self)
        return made

    def adjust(self, body: Mapping[str, Any], words: str) -> bool:
        """Changes what is sent, so that these words of a refusal need not be said again.

        Args:
            body: the request that was refused, as `apply` made it.

        Returns: False where the words are about no field that can be left out.
        """
        named = [name for name in mentioned(words, body) if name in _OPTIONAL]
        named = [name for name in named if name not in self.dropped]  # "stream" stays, as False
        ours = [name for name in named if name in _OURS]
        if ours:
            self.dropped |= set(ours)
            return True
        if "top_k" in named and body["top_k"] == -1:  # which is no filter: as good as no field
            self.dropped |= {"top_k"}
            return True
        if not _NOT_TAKEN.search(words) or not named:
            return False
        if len(named) > 1 and _BOTH.search(words):
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


def mentioned(words: str, fields: Iterable[str]) -> list[str]:
    """The fields that the words name, in the order of `fields`."""
    return [
        name
        for name in fields
        if (_STREAM if name == "stream" else re.compile(rf"(?<!\w){name}(?!\w)")).search(words)
    ]


def about_a_value(words: str) -> bool:
    """Whether the words are about a value that is out of its range."""
    return bool(_VALUE.search(words)) and not _NOT_TAKEN.search(words)
