"""Tools: programs of the user's that a model may ask for, and that run after the user has said yes.

`declared` knows tools.toml and what a call becomes; `process` runs it. Neither knows models or
screens.
"""

from glmtui.tools.declaration import Invocation, Parameter, Tool, load, tool_named, tools_file
from glmtui.tools.process import Outcome, run

__all__ = [
    "Invocation",
    "Outcome",
    "Parameter",
    "Tool",
    "load",
    "run",
    "tool_named",
    "tools_file",
]
