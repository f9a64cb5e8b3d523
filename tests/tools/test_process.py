"""Running a tool: its output, its exit status, its limits, and the processes it leaves."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from glmtui.errors import ToolError
from glmtui.tools import Invocation, run_tool
from glmtui.tools.process import MAX_OUTPUT_BYTES
from support.tool_programs import python_tool, wait_for_end

OPEN_FILES = Path("/proc/self/fd")


def test_output_and_arguments() -> None:
    code = "import sys; print(sys.argv[1:], sys.stdin.read()); print('oh', file=sys.stderr)"
    result = run_tool(python_tool(code, "a b", "$HOME; ls", "*", stdin='{"x": "北京"}'))
    assert result.ok
    assert result.text.splitlines()[0] == "['a b', '$HOME; ls', '*'] {\"x\": \"北京\"}"
    assert "oh" in result.text
    assert 0 < result.seconds < 20


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
def test_the_text_ends_with_the_reason_of_a_failure(code: str, text: str) -> None:
    result = run_tool(python_tool(code))
    assert result.text == text
    assert result.ok is ("(" not in text or text == "(no output)")


def test_output_is_bounded() -> None:
    result = run_tool(python_tool("while True: print('x' * 1000)"))
    assert not result.ok
    assert len(result.text) < MAX_OUTPUT_BYTES + 100
    assert result.text.endswith(" bytes)")


def test_a_tool_is_stopped_at_its_timeout() -> None:
    result = run_tool(
        python_tool("print('begun', flush=True); import time; time.sleep(60)", timeout=0.5)
    )
    assert "time limit exceeded" in result.text
    assert not result.ok
    assert result.seconds < 10


def test_a_stopped_tool_is_killed_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open(sys.argv[1] + '.new', 'w').write(f'{os.getpid()} {child.pid}')\n"
        "os.rename(sys.argv[1] + '.new', sys.argv[1])\n"
        "time.sleep(60)"
    )
    result = run_tool(python_tool(code, str(pids)), cancelled=pids.exists)
    assert result.text == "(stopped by the user)"
    assert all(wait_for_end(int(pid)) for pid in pids.read_text().split())


def test_a_child_left_behind_does_not_delay_the_result() -> None:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid)"
    )
    result = run_tool(python_tool(code))
    assert result.ok
    assert result.seconds < 15
    assert wait_for_end(int(result.text))


def test_a_tool_that_closes_its_output_is_waited_for() -> None:
    code = "import os, time; os.close(1); os.close(2); time.sleep(0.3); os._exit(4)"
    result = run_tool(python_tool(code))
    assert result.text == "(exit code 4)"
    assert result.seconds >= 0.3


def test_large_input() -> None:
    result = run_tool(python_tool("print('done')", stdin="x" * 1_000_000))
    assert result.text == "done"


@pytest.mark.parametrize("program", ["no-such-program-here", "/etc", "a\0b", "\ud800"])
def test_a_program_that_cannot_be_run(program: str) -> None:
    with pytest.raises(ToolError, match="Could not run"):
        run_tool(Invocation((program,), "", 1.0))


def test_no_file_or_thread_stays_open() -> None:
    run_tool(python_tool("print(1)"))
    before = len(list(OPEN_FILES.iterdir())), threading.active_count()
    for _ in range(3):
        run_tool(python_tool("print(1)"))
    assert (len(list(OPEN_FILES.iterdir())), threading.active_count()) == before
