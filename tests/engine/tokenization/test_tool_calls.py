"""Tool calls in the replies of ChatGLM3 and GLM-4 are parsed, and no code in them is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glmtui.chat import Message
from glmtui.engine.tokenization.tool_calls import (
    ToolCall,
    chatglm3_tools_prompt,
    glm4_tools_prompt,
    parse_json_arguments,
    parse_python_arguments,
    parse_tool_call,
    split_reply,
)
from glmtui.errors import EngineError


def fenced(code: str) -> str:
    return f" ```python\n{code}\n```"


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("tool_call()", {}),
        ("tool_call(city='北京', n=3)", {"city": "北京", "n": 3}),
        ("tool_call(seed=42, range=(0, 100))", {"seed": 42, "range": (0, 100)}),
        ("tool_call(\n    a=[1, -2.5],\n    b={'x': None, 'y': True},\n)", None),
        ("  tool_call(text='two\\nlines')", {"text": "two\nlines"}),
    ],
)
def test_a_call_is_read(code: str, arguments: dict[str, Any] | None) -> None:
    expected = {"a": [1, -2.5], "b": {"x": None, "y": True}} if arguments is None else arguments
    assert parse_python_arguments(fenced(code)) == expected


@pytest.mark.parametrize(
    "code",
    [
        "",
        "tool_call(",
        "tool_call('北京')",
        "tool_call(**{'a': 1})",
        "tool_call(a=open('secret').read())",
        "tool_call(a=x)",
        "tool_call(a=1)(b=2)",
        "other_call(a=1)",
        "tool.call(a=1)",
        "tool_call(a=1, a=2)",
        "tool_call(a=1); tool_call(b=2)",
        "__import__('os').system('touch ran')",
        f"tool_call(a={'(' * 5000}{')' * 5000})",
        f"tool_call(a={'-' * 20_000}1)",
        f"tool_call(a='{'x' * 100_000}')",
        "tool_call(a='\0')",
        "tool_call(a={1, 2})",
        "tool_call(a={(1, 2): 3})",
        f"tool_call(a=0x{'f' * 20_000})",
    ],
)
def test_all_but_a_call_with_literals_is_refused_and_not_run(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineError, match="tool call cannot be read"):
        parse_python_arguments(fenced(code))
    assert not list(tmp_path.iterdir())


def test_json_calls() -> None:
    assert parse_json_arguments('{"city": "北京"}') == {"city": "北京"}
    for text in ("", "{", "[1]", "3", "[" * 100_000, f'{{"a": "{"x" * 100_000}"}}'):
        with pytest.raises(EngineError, match="tool call cannot be read"):
            parse_json_arguments(text)


def test_a_reply_is_split_into_messages() -> None:
    reply = f"\n 先查一下<|assistant|> get_weather\n{fenced('tool_call()')}"
    assert split_reply(reply) == (
        Message("assistant", "先查一下"),
        Message("assistant", fenced("tool_call()"), metadata=" get_weather"),
    )
    assert split_reply("没有换行") == (Message("assistant", "没有换行"),)
    assert split_reply("") == (Message("assistant", ""),)
    # the first line of plain text is no metadata if the reply starts with a newline
    assert split_reply("\n第一行\n第二行") == (Message("assistant", "第一行\n第二行"),)


def test_only_messages_with_metadata_are_calls() -> None:
    assert (
        parse_tool_call(Message("assistant", "今天晴"), parse_python_arguments, declared=True)
        is None
    )
    call = Message("assistant", fenced("tool_call(n=1)"), metadata=" get_weather")
    assert parse_tool_call(call, parse_python_arguments, declared=True) == ToolCall(
        "get_weather", {"n": 1}, call.content
    )
    program = Message("assistant", fenced("print(1)"), metadata=" interpreter")
    assert parse_tool_call(program, parse_python_arguments, declared=False) == ToolCall(
        "interpreter", None, program.content
    )


TOOL = {"name": "get_weather", "description": "查询城市天气", "parameters": {"city": "城市名"}}


def test_declarations() -> None:
    assert chatglm3_tools_prompt([{"name": "天气"}]) == (
        "Answer the following questions as best as you can. You have access to the following "
        'tools:\n[\n    {\n        "name": "天气"\n    }\n]'
    )
    text = glm4_tools_prompt([TOOL, {"name": "b"}], "你好")
    assert text.startswith(
        '你好\n\n# 可用工具\n\n## get_weather\n\n{\n    "name": "get_weather",\n'
    )
    assert text.endswith(
        '\n\n## b\n\n{\n    "name": "b"\n}\n在调用上述函数时，请使用 Json 格式表示调用的参数。'
    )
