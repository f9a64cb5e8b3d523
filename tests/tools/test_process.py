"""Running a tool: its output, its end, and that nothing of it stays."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from glmtui.errors import ToolError
from glmtui.tools import Invocation, run_tool
from glmtui.tools.process import MAX_OUTPUT_BYTES
from support.tool_programs import ends, python

OPEN = Path("/proc/self/fd")


def test_output_and_arguments() -> None:
    code = "import sys; print(sys.argv[1:], sys.stdin.read()); print('oh', file=sys.stderr)"
    outcome = run_tool(python(code, "a b", "$HOME; ls", "*", stdin='{"x": "北京"}'))
    assert outcome.ok
    assert outcome.text.splitlines()[0] == "['a b', '$HOME; ls', '*'] {\"x\": \"北京\"}"
    assert "oh" in outcome.text
    assert 0 < outcome.seconds < 20


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("", "(no output)"),
        ("print('half'); raise SystemExit(3)", "half\n(exit code 3)"),
        ("import os; os.kill(os.getpid(), 15)", "(killed by signal 15)"),
        (r"print('\x1b[31mred\x1b[0m\r\nline')", "␛[31mred␛[0m\nline"),
        (r"import sys; sys.stdout.buffer.write(b'\xff ok')", "� ok"),
    ],
)
def test_how_it_ended_is_said(code: str, text: str) -> None:
    outcome = run_tool(python(code))
    assert outcome.text == text
    assert outcome.ok is ("(" not in text or text == "(no output)")


def test_output_is_bounded() -> None:
    outcome = run_tool(python("while True: print('x' * 1000)"))
    assert not outcome.ok
    assert len(outcome.text) < MAX_OUTPUT_BYTES + 100
    assert outcome.text.endswith("was cut)")


def test_what_takes_too_long_is_stopped() -> None:
    outcome = run_tool(
        python("print('begun', flush=True); import time; time.sleep(60)", timeout=0.5)
    )
    assert "took too long" in outcome.text
    assert not outcome.ok
    assert outcome.seconds < 10


def test_it_is_killed_with_all_it_started(tmp_path: Path) -> None:
    note = tmp_path / "pids"
    code = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open(sys.argv[1] + '.new', 'w').write(f'{os.getpid()} {child.pid}')\n"
        "os.rename(sys.argv[1] + '.new', sys.argv[1])\n"
        "time.sleep(60)"
    )
    outcome = run_tool(python(code, str(note)), cancelled=note.exists)
    assert outcome.text == "(stopped by the user)"
    assert all(ends(int(pid)) for pid in note.read_text().split())


def test_a_child_left_behind_holds_nothing_up() -> None:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid)"
    )
    outcome = run_tool(python(code))
    assert outcome.ok
    assert outcome.seconds < 15
    assert ends(int(outcome.text))


def test_one_that_closes_its_output_is_waited_for() -> None:
    code = "import os, time; os.close(1); os.close(2); time.sleep(0.3); os._exit(4)"
    outcome = run_tool(python(code))
    assert outcome.text == "(exit code 4)"
    assert outcome.seconds >= 0.3


def test_a_lot_of_input_is_no_trouble() -> None:
    outcome = run_tool(python("print('done')", stdin="x" * 1_000_000))
    assert outcome.text == "done"


@pytest.mark.parametrize("program", ["no-such-program-here", "/etc", "a\0b", "\ud800"])
def test_what_cannot_be_run_is_said(program: str) -> None:
    with pytest.raises(ToolError, match="cannot be run"):
        run_tool(Invocation((program,), "", 1.0))


def test_nothing_stays_open() -> None:
    run_tool(python("print(1)"))
    before = len(list(OPEN.iterdir())), threading.active_count()
    for _ in range(3):
        run_tool(python("print(1)"))
    assert (len(list(OPEN.iterdir())), threading.active_count()) == before
