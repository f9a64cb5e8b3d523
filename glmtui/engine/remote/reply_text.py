"""The text of a reply: what a server tells of thoughts and answer apart, as one text with tags."""

from __future__ import annotations

from glmtui.engine.remote.chat_completions import Chunk


class Thinking:
    """Makes one text of thinking and answer; the thinking is in ``<think>`` tags, as models do.

    Thoughts after a part of the answer are in tags of their own, each on a line of its own.
    """

    def __init__(self) -> None:
        self._open = False
        self._ends = "\n\n"  # of the text so far; nothing has to be parted from what comes first

    def join(self, chunk: Chunk) -> str:
        """What this chunk adds to the text."""
        text = ""
        if chunk.reasoning:
            text = chunk.reasoning
            if not self._open:
                blank = "\n" * (2 - len(self._ends) + len(self._ends.rstrip("\n")))
                text = f"{blank}<think>\n{text}"
            self._open = True
        if chunk.text and self._open:
            self._open = False
            text += "\n</think>\n\n" + chunk.text.lstrip("\n")
        else:
            text += chunk.text
        self._ends = (self._ends + text)[-2:]
        return text

    def end(self) -> str:
        """The closing tag of a reply that was all thinking, once the model is done with it."""
        was_open, self._open = self._open, False
        return "\n</think>\n" if was_open else ""
