"""Conversations on disk. `folder` has the Store; what it is made of lies beside it.

Knows files and what stands in them, no engine and no screen. Any thread may use a Store.
"""

from glmtui.store.conversation_file import Summary, read_file
from glmtui.store.exchange.import_export import to_markdown
from glmtui.store.format import FileFormat, dumps, loads
from glmtui.store.store import Store

__all__ = ["FileFormat", "Store", "Summary", "dumps", "loads", "read_file", "to_markdown"]
