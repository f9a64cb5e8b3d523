"""The reasoning in a reply: the text between <think> and </think>."""

from __future__ import annotations

import re

OPENING_TAG, CLOSING_TAG = "<think>", "</think>"

# Reasoning between two texts has its tags on lines of their own (see `remote.reply_text`).
_INNER_REASONING = re.compile(r"\n*^<think>\n.*?^</think>\n*", re.MULTILINE | re.DOTALL)
# If the template ends with the opening tag, the reply contains the closing tag only.
_CLOSING_TAG_ONLY = re.compile(r"</think>[ \t]*(?:\n\s*|\Z)")


def strip_reasoning(reply: str) -> str:
    """The reply without its reasoning; empty if it ends inside the reasoning."""
    text = reply.lstrip()
    if text.startswith(OPENING_TAG):
        reply = text.partition(CLOSING_TAG)[2].lstrip("\n")
    elif (closing := _CLOSING_TAG_ONLY.search(reply)) and OPENING_TAG not in reply[
        : closing.start()
    ]:
        reply = reply[closing.end() :]
    return _INNER_REASONING.sub("\n\n", reply)
