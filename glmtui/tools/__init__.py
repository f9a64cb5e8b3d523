"""Tools: programs of the user's that a model may ask for, and that run after the user has said yes.

`declared` knows tools.toml and what a call becomes; `process` runs it. Neither knows models or
screens.
"""

from glmtui.tools.declaration import Invocation, Parameter, Tool, find_tool, load_tools, tools_file
from glmtui.tools.process import ToolResult, run_tool

__all__ = [
    "Invocation",
    "Parameter",
    "Tool",
    "ToolResult",
    "find_tool",
    "load_tools",
    "run_tool",
    "tools_file",
]
