"""A tool that a model asks for: what is approved is what runs, and nothing of it stays behind."""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from glmtui.sanitize import sanitize, show_all_characters
from glmtui.tools import Invocation, Parameter, Tool, run_tool
from support.tool_programs import python_tool, wait_for_end

ECHO = Tool("say", "Says it", ("echo", "{what}"), (Parameter("what", "What"),))
HIDDEN = "\u200b\u200d\u2060\ufe0f\u3164\u2800\u034f\u00ad\xa0\u2003\u3000\U000e0041\ue000\u0378"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("milk\nrm -rf ~", "echo 'milk␤rm -rf ~'"),
        ("milk\r\trm", "echo 'milk␍␉rm'"),
        ("milk" + " " * 3 + "rm", "echo 'milk␣␣␣rm'"),
        ("a\u202eb\u2066", "echo 'a<U+202E>b<U+2066>'"),
        ("a\u2028b", "echo 'a<U+2028>b'"),
        ("\x7f\x9b", "echo '<U+007F><U+009B>'"),
        ("milk␤bread", "echo 'milk<U+2424>bread'"),
        ("北京 café — 👍", "echo '北京 café — 👍'"),
    ],
)
def test_every_character_of_a_command_is_seen(given: str, shown: str) -> None:
    assert ECHO.invocation({"what": given}).display_text == shown


@given(st.text(st.one_of(st.sampled_from(f" ab\n{HIDDEN}"), st.characters())))
@example(" \n  x")
def test_nothing_in_a_command_is_hidden(text: str) -> None:
    shown = show_all_characters(text)
    assert sanitize(shown) == shown or "\ufffd" in sanitize(shown)  # too many accents
    assert "  " not in shown
    for char in shown:
        assert char == " " or unicodedata.category(char)[0] in "LMNPS"
        assert char not in HIDDEN


def test_the_command_that_is_approved_is_the_one_that_runs() -> None:
    text = "milk\nbread \u202e\u200b  end"
    tool = Tool(
        "say",
        "Says it",
        (sys.executable, "-c", "import sys; print(ascii(sys.argv[1:]))", "{what}"),
        ECHO.parameters,
    )
    assert run_tool(tool.invocation({"what": text})).text == ascii([text])


LEAVE = """
import os, sys, time
if not os.fork():
    os.setsid()
    {orphan}
    open(sys.argv[1] + ".new", "w").write(str(os.getpid()))
    os.rename(sys.argv[1] + ".new", sys.argv[1])
    {clear}
    time.sleep(600)
    os._exit(0)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
{then}
"""
ORPHAN = "if os.fork(): os._exit(0)"
CLEAR = "os.execve(sys.executable, [sys.executable, '-c', 'import time; time.sleep(600)'], {})"


def run_and_leave_process(pid_file: Path, code: str, **options: object) -> int:
    """Runs a tool that leaves a process behind. Returns its pid."""
    run_tool(python_tool(code, str(pid_file), timeout=60), **options)  # type: ignore[arg-type]
    return int(pid_file.read_text())


def test_what_leaves_its_session_is_killed_too(tmp_path: Path) -> None:
    code = LEAVE.format(orphan="", clear="", then="time.sleep(600)")
    pid_file = tmp_path / "stopped"
    assert wait_for_end(run_and_leave_process(pid_file, code, cancelled=pid_file.exists))
    code = LEAVE.format(orphan="", clear="", then="")
    assert wait_for_end(run_and_leave_process(tmp_path / "ended", code))


@pytest.mark.parametrize("clear", ["", pytest.param(CLEAR, id="with another environment")])
def test_what_leaves_its_parent_is_killed_too(tmp_path: Path, clear: str) -> None:
    if clear and not sys.platform.startswith("linux"):
        pytest.skip("found by its environment, where there are no subreapers")
    code = LEAVE.format(orphan=ORPHAN, clear=clear, then="print('done')")
    assert wait_for_end(run_and_leave_process(tmp_path / "pid", code))


def test_a_tool_that_kills_its_parent_is_killed_itself(tmp_path: Path) -> None:
    code = "import os, time; print('x', flush=True); os.kill(os.getppid(), 9); time.sleep(600)"
    outcome = run_tool(python_tool(code))
    assert not outcome.ok
    assert "killed by signal 9" in outcome.text


def test_a_tool_that_is_not_there_leaves_nothing_open() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for program in ("no-such-program-here", "a\0b"):
        with pytest.raises(Exception, match="Could not run"):
            run_tool(Invocation((program,), "", 5.0))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
