"""Source code to spans, by Pygments' lexers; what the styles look like is the theme's business."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from glmtui.ui.markdown.styled_text import Span, Styles
from glmtui.ui.markdown.time_limit import OutOfTime, within

if TYPE_CHECKING:
    from pygments.lexer import Lexer
    from pygments.token import _TokenType

MOST_SECONDS = 0.1
"""For one piece of code: some lexers take minutes for 40 kB of an unclosed bracket."""

# Pygments' names for tokens; one that is not here looks like its nearest ancestor.
_LOOKS = {
    "Token": "",
    "Token.Comment": "syntax-comment",
    "Token.Comment.Preproc": "syntax-keyword",
    "Token.Generic.Deleted": "syntax-deleted",
    "Token.Generic.Heading": "syntax-name",
    "Token.Generic.Inserted": "syntax-string",
    "Token.Generic.Subheading": "syntax-name",
    "Token.Keyword": "syntax-keyword",
    "Token.Literal": "syntax-string",
    "Token.Literal.Number": "syntax-number",
    "Token.Name.Attribute": "syntax-name",
    "Token.Name.Class": "syntax-name",
    "Token.Name.Decorator": "syntax-keyword",
    "Token.Name.Function": "syntax-name",
    "Token.Name.Tag": "syntax-keyword",
    "Token.Operator.Word": "syntax-keyword",
}


def highlight(code: str, language: str, base: Styles = ()) -> list[Span]:
    """`code` as spans of `base` and a "syntax-..." style.

    Plain where the language is unknown, or its lexer takes longer than `MOST_SECONDS` or does not
    give back all of the code, as a few do not.
    """
    lexer = _lexer(language)
    if lexer is None:
        return [Span(code, base)]
    try:
        spans = within(MOST_SECONDS, lambda: _spans(lexer, code, base))
    except OutOfTime:
        spans = []
    return spans if "".join(span.text for span in spans) == code else [Span(code, base)]


def _spans(lexer: Lexer, code: str, base: Styles) -> list[Span]:
    spans: list[Span] = []
    for _, token_type, text in lexer.get_tokens_unprocessed(code):
        look = _look(token_type)
        styles = (*base, look) if look else base
        # Blanks have no colour of their own: fewer spans, fewer bytes to the terminal.
        if spans and (styles == spans[-1].styles or text == " "):
            spans[-1] = Span(spans[-1].text + text, spans[-1].styles)
        else:
            spans.append(Span(text, styles))
    return spans


@lru_cache(maxsize=64)
def _lexer(language: str) -> Lexer | None:
    # Imported here because Pygments costs the start of the program 10 ms and a language 40.
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        return get_lexer_by_name(language) if language else None
    except ClassNotFound:
        return None


@lru_cache(maxsize=1024)
def _look(token_type: _TokenType) -> str:
    while str(token_type) not in _LOOKS:
        token_type = token_type.parent
    return _LOOKS[str(token_type)]
