"""Conversations on disk: one TOML or JSON file each, written atomically, locked, listed, searched.

Also drafts and the question history. Knows files and their format, no engine and no screen.
A `Store` may be used from any thread.
"""

from glmtui.store.conversation_file import Summary, read_file
from glmtui.store.conversation_format import FileFormat, dumps, loads
from glmtui.store.exchange.import_export import to_markdown
from glmtui.store.store import Store

__all__ = ["FileFormat", "Store", "Summary", "dumps", "loads", "read_file", "to_markdown"]
