"""The chat as plain lines, for screen readers, pipes and terminals that cannot place a cursor.

Knows the workspace and the shared commands; uses no Textual widget.
"""
