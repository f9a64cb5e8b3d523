"""Conversations on disk. `folder` has the Store; what it is made of lies beside it.

Knows files and what stands in them, no engine and no screen. Any thread may use a Store.
"""

from glmtui.store.exchange import to_markdown
from glmtui.store.folder import Store
from glmtui.store.format import FileFormat, dumps, loads
from glmtui.store.reading import Summary, read_file

__all__ = ["FileFormat", "Store", "Summary", "dumps", "loads", "read_file", "to_markdown"]
