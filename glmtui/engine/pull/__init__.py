"""How a model comes to this machine.

`sources` decides where from, `wheel`, `hub` and `fetch` bring it, `staging` puts it in place.
"""

from glmtui.engine.pull.sources import pull

__all__ = ["pull"]
