"""The operating system: files, folders, programs and terminals.

Knows nothing of conversations, models or settings.
"""
