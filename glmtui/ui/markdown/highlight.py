"""Syntax highlighting: source code to spans, with Pygments' lexers."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from glmtui.ui.markdown.styled_text import Span, Styles
from glmtui.ui.markdown.time_limit import TimeLimitExceeded, call_with_time_limit

if TYPE_CHECKING:
    from pygments.lexer import Lexer
    from pygments.token import _TokenType

MAX_SECONDS = 0.1
"""Time limit for one piece of code. Some lexers need minutes for 40 kB after an unclosed bracket,
while ordinary code takes a few milliseconds."""

# Styles by Pygments token type; a type that is missing has the style of its nearest ancestor.
_STYLES = {
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
    """`code` as spans with the styles `base` and a "syntax-..." style.

    Returns one plain span if the language is unknown, if its lexer takes longer than `MAX_SECONDS`,
    or if the lexer does not return all of the code, as a few do not.
    """
    lexer = _lexer(language)
    if lexer is None:
        return [Span(code, base)]
    try:
        spans = call_with_time_limit(MAX_SECONDS, lambda: _spans(lexer, code, base))
    except TimeLimitExceeded:
        spans = []
    return spans if "".join(span.text for span in spans) == code else [Span(code, base)]


def _spans(lexer: Lexer, code: str, base: Styles) -> list[Span]:
    spans: list[Span] = []
    for _, token_type, text in lexer.get_tokens_unprocessed(code):
        style = _style(token_type)
        styles = (*base, style) if style else base
        # A space looks the same in any colour; joining it sends fewer bytes to the terminal.
        if spans and (styles == spans[-1].styles or text == " "):
            spans[-1] = Span(spans[-1].text + text, spans[-1].styles)
        else:
            spans.append(Span(text, styles))
    return spans


@lru_cache(maxsize=64)
def _lexer(language: str) -> Lexer | None:
    # Imported late: Pygments takes 10 ms to import, and each language up to 40 ms.
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        return get_lexer_by_name(language) if language else None
    except ClassNotFound:
        return None


@lru_cache(maxsize=1024)
def _style(token_type: _TokenType) -> str:
    while str(token_type) not in _STYLES:
        token_type = token_type.parent
    return _STYLES[str(token_type)]
