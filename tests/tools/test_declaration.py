"""tools.toml: what is offered to a model, and what a call of it becomes."""

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
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLMTUI_CONFIG_DIR", str(tmp_path))
    return tmp_path / "tools.toml"


def weather() -> Tool:
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


def test_tools_are_read(file: Path) -> None:
    file.write_text(WEATHER)
    assert tools_file() == file
    (first, second), problems = load_tools()
    assert problems == []
    assert first == weather()
    assert (second.name, second.timeout) == ("search-notes", 30.0)
    assert find_tool((first, second), "search-notes") is second
    with pytest.raises(ToolError, match="does not exist: rm"):
        find_tool((first, second), "rm\n")


@pytest.mark.parametrize("first_line", ["", "enabled = false\n", "# enabled = true\n"])
def test_no_tool_is_offered_unless_the_user_says_so(file: Path, first_line: str) -> None:
    assert load_tools() == ((), [])
    file.write_text(WEATHER.replace("enabled = true\n", first_line))
    assert load_tools() == ((), [])


@pytest.mark.parametrize(
    ("before", "after", "line", "said"),
    [
        ("timeout = 20", "timeout = 0", 3, "not between 0 and 600"),
        ("timeout = 20", "timeout = inf", 3, "not between 0 and 600"),
        ("timeout = 20", "timeout = true", 3, "no number of seconds"),
        ("timeout = 20", "time_out = 20", 3, "has no 'time_out'"),
        ('description = "The weather in a city, now"\n', "", 3, "no description"),
        ('command = ["curl", ', 'command = ["{city}", ', 3, "choose the program"),
        ('command = ["curl", ', "command = [1, ", 3, "list of texts"),
        ('["rg", "--", "{words}"]', '"rg {words}"', 13, "list of texts"),
        ('["rg", "--", "{words}"]', "[]", 13, "list of texts"),
        ('type = "integer"', 'type = "int"', 3, "string, integer, number, boolean"),
        ('type = "integer"', 'kind = "integer"', 3, "has no 'kind'"),
        ("optional = true", "optional = 1", 3, "true or false"),
        ('choices = ["3", "4"]', "choices = [3]", 3, "list of texts"),
        ("parameters.words.description", "parameters.words", 13, "no table"),
        ("[tools.search-notes]", '[tools."search notes"]', 13, "no name of a tool"),
    ],
)
def test_a_bad_tool_is_left_out_with_its_line(
    file: Path, before: str, after: str, line: int, said: str
) -> None:
    assert before in WEATHER
    file.write_text(WEATHER.replace(before, after))
    tools, (problem,) = load_tools()
    assert len(tools) == 1  # the other one
    assert f"{file}, line {line}: " in problem.message
    assert said in problem.message
    assert problem.hint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("enabled = 'yes'\n" + WEATHER.partition("\n")[2], "line 1: enabled is true or false"),
        ("enabled = ", "cannot be read"),
        ("enabled = true\ncommand = []\n", 'line 2: there is no setting "command"'),
        (b"enabled = true # \xff", "cannot be read"),
    ],
)
def test_a_bad_file_offers_nothing(file: Path, text: str | bytes, said: str) -> None:
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    tools, (problem,) = load_tools()
    assert tools == ()
    assert said in problem.message


def test_what_a_model_is_told() -> None:
    assert weather().declaration == {
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


def test_arguments_take_their_places() -> None:
    whole = weather().invocation({"city": "北京; rm -rf ~", "form": "3", "seconds": 5})
    assert whole.argv == (
        "curl",
        "-s",
        "https://wttr.in/北京; rm -rf ~?format=3",
        "--max-time=5",
    )
    assert json.loads(whole.stdin) == {"city": "北京; rm -rf ~", "form": "3", "seconds": 5}
    assert whole.timeout == 20.0
    assert whole.display_text == "curl -s 'https://wttr.in/北京; rm -rf ~?format=3' --max-time=5"
    assert weather().invocation({"city": "x", "form": "4"}).argv[3:] == ()


def test_what_is_shown_is_one_harmless_line() -> None:
    shown = Invocation(("echo", "a\nb\x1b[31m\u202e"), "", 1.0).display_text
    assert shown == "echo 'a␤b␛[31m<U+202E>'"
    assert "\n" not in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (None, "cannot be read"),
        ({"form": "3"}, "needs city"),
        ({"city": "x", "form": "5"}, "one of 3, 4"),
        ({"city": 3, "form": "3"}, "city should be a string"),
        ({"city": "x", "form": "3", "seconds": "5"}, "seconds should be a integer"),
        ({"city": "x", "form": "3", "seconds": True}, "seconds should be a integer"),
        ({"city": "x", "form": "3", "file": "/etc/passwd"}, "takes no file"),
        ({"city": "x\0", "form": "3"}, "NUL"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    arguments: dict[str, object] | None, said: str
) -> None:
    with pytest.raises(ToolError, match=said):
        weather().invocation(arguments)


def test_an_argument_cannot_become_an_option() -> None:
    parameters = (Parameter("words", ""), Parameter("n", "", "number", optional=True))
    bare = Tool("t", "d", ("rg", "{words}"), parameters)
    with pytest.raises(ToolError, match="begins with a dash") as refused:
        bare.invocation({"words": "--pre=sh"})
    assert '"--"' in refused.value.hint
    guarded = Tool("t", "d", ("rg", "--", "{words}"), parameters)
    assert guarded.invocation({"words": "--pre=sh"}).argv == ("rg", "--", "--pre=sh")
    option = Tool("t", "d", ("rg", "-m{n}", "x"), parameters)
    assert option.invocation({"words": "", "n": -1.5}).argv == ("rg", "-m-1.5", "x")


def test_other_braces_are_only_braces() -> None:
    tool = Tool("t", "d", ("awk", "{print $1} {x} {y}"), (Parameter("x", ""),))
    assert tool.invocation({"x": "{y}"}).argv == ("awk", "{print $1} {y} {y}")
