"""Tool calls of ChatGLM3 and GLM-4 as text: declarations in the prompt, and calls in a reply.

A reply is one or more messages, separated by ``<|assistant|>``. Each starts with a line of
metadata: empty for plain text, else the name of the tool to call. No tool and no code is run here.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from glmtui.chat import Message
from glmtui.engine.api import ToolCall
from glmtui.errors import EngineError
from glmtui.language import _

SEPARATOR = "<|assistant|>"
MAX_CALL_CHARS = 64_000  # of one call; Python's parser takes memory for each

ToolDeclaration: TypeAlias = Mapping[str, Any]  # a declaration: name, description, parameters


def split_reply(text: str) -> tuple[Message, ...]:
    """The assistant's messages in a reply, each with its metadata line split off."""
    messages = []
    for part in text.split(SEPARATOR):
        metadata, newline, content = part.partition("\n")
        if not newline:
            metadata, content = "", part
        if not metadata.strip():
            content = content.strip()
        messages.append(Message("assistant", content, metadata=metadata))
    return tuple(messages)


def parse_tool_call(
    message: Message, parse_arguments: Callable[[str], dict[str, Any]], *, declared: bool
) -> ToolCall | None:
    """The tool call in a message; None for plain text.

    Args:
        parse_arguments: `parse_python_arguments` for ChatGLM3, `parse_json_arguments` for GLM-4.
        declared: whether the system prompt declared tools; otherwise a call has no arguments.
    """
    name = message.metadata.strip()
    if not name:
        return None
    try:
        arguments = parse_arguments(message.content) if declared else None
        return ToolCall(name, arguments, message.content)
    except EngineError as error:
        return ToolCall(name, None, message.content, error.message)


def parse_python_arguments(content: str) -> dict[str, Any]:
    """The arguments of ChatGLM3's fenced ``tool_call(name=literal, ...)``. Raises EngineError.

    The call is parsed and not run; only literals passed by name are accepted.
    """
    code = "\n".join(content.split("\n")[1:-1])  # without the lines of the fence
    try:
        if len(code) > MAX_CALL_CHARS:
            raise ValueError(f"it has {len(code):,} characters")
        call = ast.parse(code.strip(), mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)) or call.args:
            raise ValueError("it is not one call with named arguments")
        arguments = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg is not None}
        if call.func.id != "tool_call" or len(arguments) < len(call.keywords):
            raise ValueError("it is not tool_call(name=value, ...)")
        json.dumps(arguments)  # refuses what no tool can be given: sets, bytes, huge integers
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise _parse_error(content, error) from error
    return arguments


def parse_json_arguments(content: str) -> dict[str, Any]:
    """The arguments of GLM-4's call, a JSON object. Raises EngineError."""
    try:
        if len(content) > MAX_CALL_CHARS:
            raise ValueError(f"it has {len(content):,} characters")
        arguments = json.loads(content)
        if not isinstance(arguments, dict):
            raise ValueError(f"it is a {type(arguments).__name__}, not an object")
    except (ValueError, RecursionError) as error:
        raise _parse_error(content, error) from error
    return arguments


def _parse_error(content: str, error: BaseException) -> EngineError:
    return EngineError(
        _("The model's tool call cannot be read: {error}.").format(error=error),
        _("It wrote: {text}").format(text=content.strip()[:200]),
    )


def chatglm3_tools_prompt(tools: Sequence[ToolDeclaration], prompt: str | None = None) -> str:
    """ChatGLM3's system prompt with tools: the prompt, then the tools as JSON."""
    prompt = prompt or (
        "Answer the following questions as best as you can. You have access to the following tools:"
    )
    return f"{prompt}\n{json.dumps(list(tools), indent=4, ensure_ascii=False)}"


def glm4_tools_prompt(tools: Sequence[ToolDeclaration], prompt: str | None = None) -> str:
    """GLM-4's system prompt with tools: a heading and a JSON object for each."""
    prompt = prompt or (
        "你是一个名为 GLM-4 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，"
        "你的任务是针对用户的问题和要求提供适当的答复和支持。"
    )
    sections = (
        f"\n\n## {tool['name']}\n\n{json.dumps(tool, indent=4, ensure_ascii=False)}\n"
        "在调用上述函数时，请使用 Json 格式表示调用的参数。"
        for tool in tools
    )
    return f"{prompt}\n\n# 可用工具{''.join(sections)}"
