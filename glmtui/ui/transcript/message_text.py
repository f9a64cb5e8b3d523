"""What is taken out of a message: what it says, a block of its code. Knows no screen."""

from __future__ import annotations

from typing import NamedTuple

from glmtui.chat import Message
from glmtui.errors import UsageError
from glmtui.language import _
from glmtui.ui.transcript.reasoning import split


class CodeBlock(NamedTuple):
    """One of the blocks of code in a text; `at` is its place among `of`, from 0."""

    at: int
    of: int
    text: str


def spoken_text(message: Message) -> str:
    """What a message says; of a reply without what was thought before it."""
    if message.role != "assistant":
        return message.content
    return split(message.content)[1].strip("\n")


def code_block(text: str, number: str = "", last: int = -1) -> CodeBlock | None:
    """The block of that number, counted from 1, or without one that after `last`.

    None where there is no code. Raises UsageError where there is no such block.
    """
    from glmtui.ui.markdown.document import code_blocks

    blocks = code_blocks(text)
    if not blocks:
        return None
    at = int(number) - 1 if number.isdecimal() else (last + 1) % len(blocks)
    if (number and not number.isdecimal()) or not 0 <= at < len(blocks):
        raise UsageError(
            _("There is no block {number}.").format(number=number),
            _("There are {count}, counted from 1.").format(count=len(blocks)),
        )
    return CodeBlock(at, len(blocks), blocks[at].text)
