"""How a model comes to this machine.

`sources` decides where from, `wheel`, `hub` and `fetch` bring it, `staging` puts it in place;
`verify` looks whether it is still the same.
"""

from glmtui.engine.pull.sources import pull
from glmtui.engine.pull.verify import verify

__all__ = ["pull", "verify"]
