"""tools.toml, what a model is told about a tool, and the command that a call runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glmtui.errors import ToolError
from glmtui.tools import Invocation, Parameter, Tool, find_tool, load_tools, tools_file

WEATHER = """\
enabled = true

[tools.get_weather]
description = "The weather in a city, now"
command = ["curl", "-s", "https://wttr.in/{city}?format={form}", "--max-time={seconds}"]
timeout = 20

[tools.get_weather.parameters]
city = { description = "The city's name" }
form = { description = "How long", choices = ["3", "4"] }
seconds = { type = "integer", optional = true }

[tools.search-notes]
description = "Notes with these words"
command = ["rg", "--", "{words}"]
parameters.words.description = "Words to look for"
"""


@pytest.fixture
def tools_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLMTUI_CONFIG_DIR", str(tmp_path))
    return tmp_path / "tools.toml"


def weather_tool() -> Tool:
    return Tool(
        "get_weather",
        "The weather in a city, now",
        ("curl", "-s", "https://wttr.in/{city}?format={form}", "--max-time={seconds}"),
        (
            Parameter("city", "The city's name"),
            Parameter("form", "How long", choices=("3", "4")),
            Parameter("seconds", "", "integer", optional=True),
        ),
        20.0,
    )


# ---- the file


def test_tools_are_read(tools_path: Path) -> None:
    tools_path.write_text(WEATHER)
    assert tools_file() == tools_path
    (first, second), problems = load_tools()
    assert problems == []
    assert first == weather_tool()
    assert (second.name, second.timeout) == ("search-notes", 30.0)
    assert find_tool((first, second), "search-notes") is second
    with pytest.raises(ToolError, match="does not exist: rm"):
        find_tool((first, second), "rm\n")


@pytest.mark.parametrize("first_line", ["", "enabled = false\n", "# enabled = true\n"])
def test_no_tool_is_offered_unless_tools_are_enabled(tools_path: Path, first_line: str) -> None:
    assert load_tools() == ((), [])
    tools_path.write_text(WEATHER.replace("enabled = true\n", first_line))
    assert load_tools() == ((), [])


@pytest.mark.parametrize(
    ("before", "after", "line", "message"),
    [
        ("timeout = 20", "timeout = 0", 3, "above 0 and at most 600"),
        ("timeout = 20", "timeout = inf", 3, "above 0 and at most 600"),
        ("timeout = 20", "timeout = true", 3, "must be a number of seconds"),
        ("timeout = 20", "time_out = 20", 3, "unknown key 'time_out' in tools.get_weather"),
        ('description = "The weather in a city, now"\n', "", 3, "needs a description"),
        (
            'command = ["curl", ',
            'command = ["{city}", ',
            3,
            "must not let the model choose the program",
        ),
        ('command = ["curl", ', "command = [1, ", 3, "must be a list of strings"),
        ('["rg", "--", "{words}"]', '"rg {words}"', 13, "must be a list of strings"),
        ('["rg", "--", "{words}"]', "[]", 13, "must be a list of strings"),
        ('type = "integer"', 'type = "int"', 3, "string, integer, number, boolean"),
        ('type = "integer"', 'kind = "integer"', 3, "unknown key 'kind'"),
        ("optional = true", "optional = 1", 3, "must be true or false"),
        ('choices = ["3", "4"]', "choices = [3]", 3, "must be a list of strings"),
        ("parameters.words.description", "parameters.words", 13, "must be a table"),
        ("[tools.search-notes]", '[tools."search notes"]', 13, "is not a valid tool name"),
    ],
)
def test_an_invalid_tool_is_left_out_and_reported_with_its_line(
    tools_path: Path, before: str, after: str, line: int, message: str
) -> None:
    assert before in WEATHER
    tools_path.write_text(WEATHER.replace(before, after))
    tools, (problem,) = load_tools()
    assert len(tools) == 1  # the other one
    assert f"{tools_path}, line {line}: " in problem.message
    assert message in problem.message
    assert problem.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("enabled = 'yes'\n" + WEATHER.partition("\n")[2], "line 1: enabled must be true or false"),
        ("enabled = ", "Could not read"),
        ("enabled = true\ncommand = []\n", 'line 2: unknown setting "command"'),
        (b"enabled = true # \xff", "Could not read"),
    ],
)
def test_an_invalid_file_offers_no_tool(tools_path: Path, text: str | bytes, message: str) -> None:
    tools_path.write_bytes(text if isinstance(text, bytes) else text.encode())
    tools, (problem,) = load_tools()
    assert tools == ()
    assert message in problem.message


def test_the_declaration_for_the_model() -> None:
    assert weather_tool().declaration == {
        "name": "get_weather",
        "description": "The weather in a city, now",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city's name"},
                "form": {"type": "string", "description": "How long", "enum": ["3", "4"]},
                "seconds": {"type": "integer", "description": ""},
            },
            "required": ["city", "form"],
        },
    }


# ---- a call


def test_arguments_replace_placeholders() -> None:
    whole = weather_tool().invocation({"city": "北京; rm -rf ~", "form": "3", "seconds": 5})
    assert whole.argv == (
        "curl",
        "-s",
        "https://wttr.in/北京; rm -rf ~?format=3",
        "--max-time=5",
    )
    assert json.loads(whole.stdin) == {"city": "北京; rm -rf ~", "form": "3", "seconds": 5}
    assert whole.timeout == 20.0
    assert whole.display_text == "curl -s 'https://wttr.in/北京; rm -rf ~?format=3' --max-time=5"
    assert weather_tool().invocation({"city": "x", "form": "4"}).argv[3:] == ()


def test_the_displayed_command_is_one_safe_line() -> None:
    text = Invocation(("echo", "a\nb\x1b[31m\u202e"), "", 1.0).display_text
    assert text == "echo 'a␤b␛[31m<U+202E>'"
    assert "\n" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (None, "could not be parsed"),
        ({"form": "3"}, "needs city"),
        ({"city": "x", "form": "5"}, "one of 3, 4"),
        ({"city": 3, "form": "3"}, "city must be of type string"),
        ({"city": "x", "form": "3", "seconds": "5"}, "seconds must be of type integer"),
        ({"city": "x", "form": "3", "seconds": True}, "seconds must be of type integer"),
        ({"city": "x", "form": "3", "file": "/etc/passwd"}, "has no parameter file"),
        ({"city": "x\0", "form": "3"}, "NUL"),
    ],
)
def test_invalid_arguments_are_refused(arguments: dict[str, object] | None, message: str) -> None:
    with pytest.raises(ToolError, match=message):
        weather_tool().invocation(arguments)


def test_an_argument_cannot_become_an_option() -> None:
    parameters = (Parameter("words", ""), Parameter("n", "", "number", optional=True))
    bare = Tool("t", "d", ("rg", "{words}"), parameters)
    with pytest.raises(ToolError, match="starts with a dash") as refused:
        bare.invocation({"words": "--pre=sh"})
    assert '"--"' in refused.value.hint
    guarded = Tool("t", "d", ("rg", "--", "{words}"), parameters)
    assert guarded.invocation({"words": "--pre=sh"}).argv == ("rg", "--", "--pre=sh")
    option = Tool("t", "d", ("rg", "-m{n}", "x"), parameters)
    assert option.invocation({"words": "", "n": -1.5}).argv == ("rg", "-m-1.5", "x")


def test_other_braces_are_literal_text() -> None:
    tool = Tool("t", "d", ("awk", "{print $1} {x} {y}"), (Parameter("x", ""),))
    assert tool.invocation({"x": "{y}"}).argv == ("awk", "{print $1} {y} {y}")
