"""Import and export: Markdown, and the chat formats of other programs.

Knows texts and tables, not files.
"""
