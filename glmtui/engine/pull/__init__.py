"""Brings models to this machine, from a package index, a hub, a folder or a GGUF file.

Knows hubs, installers and the layout of their caches. Knows nothing of loading or running models.
"""

from glmtui.engine.pull.sources import pull
from glmtui.engine.pull.verify import verify

__all__ = ["pull", "verify"]
