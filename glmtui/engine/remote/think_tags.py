"""Joins the reasoning and the answer of a reply, which servers send apart, into one text."""

from __future__ import annotations

from glmtui.engine.remote.chat_completions import Chunk


class ThinkTagWriter:
    """Encloses reasoning in ``<think>`` tags, as models do.

    Reasoning after a part of the answer gets tags of its own, each on a separate line.
    """

    def __init__(self) -> None:
        self._open = False
        self._tail = "\n\n"  # last two characters written; a first tag needs no blank line

    def feed(self, chunk: Chunk) -> str:
        """Return the text that this chunk adds."""
        text = ""
        if chunk.reasoning:
            text = chunk.reasoning
            if not self._open:
                blank = "\n" * (2 - len(self._tail) + len(self._tail.rstrip("\n")))
                text = f"{blank}<think>\n{text}"
            self._open = True
        if chunk.text and self._open:
            self._open = False
            text += "\n</think>\n\n" + chunk.text.lstrip("\n")
        else:
            text += chunk.text
        self._tail = (self._tail + text)[-2:]
        return text

    def flush(self) -> str:
        """Return the closing tag of a complete reply without an answer."""
        was_open, self._open = self._open, False
        return "\n</think>\n" if was_open else ""
