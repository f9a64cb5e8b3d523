"""Tools: the user's programs that a model may call, and running them after the user has agreed.

Models, their formats of tool calls, and asking the user are not known here.
"""

from glmtui.tools.process import ToolResult, run_tool
from glmtui.tools.tool import Invocation, Parameter, Tool, find_tool
from glmtui.tools.tools_toml import load_tools, tools_file

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
