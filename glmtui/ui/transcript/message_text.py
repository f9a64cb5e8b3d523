"""Parts of a message's text for copying: the reply without its reasoning, and its code blocks."""

from __future__ import annotations

from typing import NamedTuple

from glmtui.chat import Message
from glmtui.errors import UsageError
from glmtui.language import _
from glmtui.ui.transcript.reasoning import split_reasoning


class CodeBlock(NamedTuple):
    """A code block, its position from 0, and the number of code blocks in the text."""

    position: int
    total: int
    text: str


def text_without_reasoning(message: Message) -> str:
    """The text of a message, without the reasoning if it is a reply."""
    if message.role != "assistant":
        return message.content
    return split_reasoning(message.content)[1].strip("\n")


def code_block(text: str, number: str = "", last: int = -1) -> CodeBlock | None:
    """Finds a code block in `text`. Returns None if there is no code.

    Args:
        number: counted from 1; "" is the block after `last`, then again the first.

    Raises:
        UsageError: there is no block of this number.
    """
    from glmtui.ui.markdown.document import code_blocks

    blocks = code_blocks(text)
    if not blocks:
        return None
    position = int(number) - 1 if number.isdecimal() else (last + 1) % len(blocks)
    if (number and not number.isdecimal()) or not 0 <= position < len(blocks):
        raise UsageError(
            _("No code block {number}.").format(number=number),
            _("Code blocks are numbered from 1 to {count}.").format(count=len(blocks)),
        )
    return CodeBlock(position, len(blocks), blocks[position].text)
