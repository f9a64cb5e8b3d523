"""Markdown as lines of styled text: parsing, streaming, highlighting, formulas and wrapping.

Knows no widgets, colours or messages: styles are names that `glmtui.ui.transcript.styles` draws.
"""
