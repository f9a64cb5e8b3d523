"""The program as a process: exit codes, signals, pipes, terminals and imports."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import TESTS

# Runs ``glmtui ARGUMENTS`` with a scripted model in place of the one it would load.
SCRIPTED = """\
import sys
from itertools import repeat
from support.scripted_model import ScriptedModel, interrupt, wait, wait_for_ever
import glmtui.cli.ask
from glmtui.cli.main import main
{before}
def open_chat(settings, on_progress):
    {loading}
    return ScriptedModel({pieces})
glmtui.cli.ask.open_chat_model = open_chat
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def start(tmp_path):
    """Starts glmtui, by itself or around a model that says `pieces`.

    These (an expression), `loading` (a statement that loads it) and `before` are Python.
    """
    running = []

    def run(
        *argv,
        pieces="",
        loading="pass",
        before="",
        stdin=subprocess.DEVNULL,
        out=subprocess.PIPE,
        err=subprocess.PIPE,
        **environ,
    ):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("GLMTUI_", "LC_", "LANG"))}
        folders = {
            f"GLMTUI_{name}_DIR": str(tmp_path / name)
            for name in ("DATA", "CONFIG", "CACHE", "STATE")
        }
        scripted = SCRIPTED.format(pieces=pieces or "[]", loading=loading, before=before)
        how = ["-c", scripted] if pieces or loading != "pass" else ["-m", "glmtui"]
        process = subprocess.Popen(
            [sys.executable, *how, *argv],
            stdin=stdin,
            stdout=out,
            stderr=err,
            cwd=tmp_path,
            env=kept | folders | {"PYTHONPATH": f"{TESTS}:{TESTS.parent}"} | environ,
        )
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


def end(process, stdin=None):
    """Exit code, stdout and stderr of a process that ends by itself."""
    out, err = process.communicate(stdin, timeout=60)
    return process.returncode, (out or b"").decode(), err.decode()


def test_exit_code_0(start):
    assert end(start("ask", "hi", pieces="['Hello']")) == (0, "Hello\n", "")


def test_exit_code_1(start):
    code, out, err = end(start("ask", "hi"))
    assert (code, out) == (1, "")
    assert err.startswith("glmtui: ")
    assert "glmtui pull smollm2" in err


def test_exit_code_2(start):
    assert end(start("ask", "--frobnicate"))[0] == 2


def test_the_app_without_a_terminal_says_to_use_ask(start):
    code, out, err = end(start())
    assert (code, out) == (2, "")
    assert "glmtui ask" in err


def test_a_damaged_model_is_named_and_the_others_are_listed(start, tmp_path):
    folder = tmp_path / "CACHE" / "models" / "bad"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{")
    code, out, err = end(start("models"))
    assert code == 0
    assert "smollm2" in out
    assert err.startswith(f"glmtui: Skipped {folder}: ")


def test_a_pipe_is_the_question(start):
    process = start("ask", "--json", pieces="['x']", stdin=subprocess.PIPE)
    assert end(process, "为什么？".encode())[0] == 0


def test_an_empty_pipe_is_no_question(start):
    assert end(start("ask", pieces="['x']"))[0] == 2


def test_ctrl_c_keeps_the_partial_text_and_leaves_130(start):
    process = start("ask", "hi", pieces="['half a ', 'sentence', wait, 'no']")
    assert process.stdout.read(15) == b"half a sentence"
    process.send_signal(signal.SIGINT)
    assert end(process) == (130, "\n", "")


def test_a_second_ctrl_c_does_not_wait_for_a_model_that_does_not_listen(start):
    process = start("ask", "hi", pieces="['half', wait_for_ever]")
    assert process.stdout.readline() == b"halfwaiting\n"
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
    assert end(process) == (130, "", "")


def test_ctrl_c_while_a_model_loads_ends_at_once(start):
    process = start("ask", "hi", loading="wait_for_ever(None)")
    assert process.stdout.readline() == b"waiting\n"
    process.send_signal(signal.SIGINT)
    assert end(process) == (130, "", "")


def test_a_background_job_does_not_hear_ctrl_c(start):
    ignoring = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    process = start("ask", "hi", pieces="['half', interrupt, ' whole']", before=ignoring)
    assert end(process) == (0, "half whole\n", "")


def test_a_reader_that_goes_away_is_no_error(start):
    process = start("ask", "hi", pieces="repeat('line\\n')")
    assert process.stdout.readline() == b"line\n"
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 141


def test_a_full_disk_is_one_line(start):
    with Path("/dev/full").open("wb") as full:
        code, _, err = end(start("ask", "hi", pieces="['Hello']", out=full))
    assert code == 1
    assert "No space left on device" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("environ", "out"),
    [
        ({"LC_ALL": "C"}, "你好\n"),
        ({"PYTHONIOENCODING": "latin-1"}, "??\n"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "??\n"),
    ],
)
def test_a_locale_that_lacks_the_characters(start, environ, out):
    assert end(start("ask", "hi", pieces="['\\u4f60', '\\u597d']", **environ)) == (0, out, "")


def test_on_a_terminal_nothing_acts(start):
    ours, theirs = pty.openpty()
    said = "['a\\x1b[31m', '\\u202eb']"
    process = start("ask", "hi", pieces=said, stdin=theirs, out=theirs, err=theirs)
    os.close(theirs)
    shown = b""
    while data := _read(ours):
        shown += data
    os.close(ours)
    assert process.wait(60) == 0
    assert b"\x1b[31m" not in shown
    assert "a␛[31m\ufffdb\r\n".encode() in shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # EIO: nobody has the other end open any more
        return b""


@pytest.mark.parametrize(
    ("argv", "foreign"),
    [
        (["--version"], {"torch", "textual", "transformers", "numpy", "tomli", "rich", "httpx"}),
        (["list"], {"torch", "textual", "transformers", "numpy", "httpx"}),
        (["models"], {"torch", "textual", "transformers", "numpy", "httpx"}),
        (["config"], {"torch", "textual", "transformers", "numpy", "httpx", "rich"}),
        (["ask", "-m", "http://127.0.0.1:9/v1", "hi"], {"torch", "textual", "transformers"}),
    ],
)
def test_a_command_imports_only_what_it_needs(argv, foreign, tmp_path):
    code = (
        "import sys; from glmtui.cli.main import main; main(sys.argv[1:]); "
        "print(*{m.partition('.')[0] for m in sys.modules})"
    )
    folders = {f"GLMTUI_{name}_DIR": str(tmp_path) for name in ("DATA", "CONFIG", "CACHE", "STATE")}
    done = subprocess.run(
        [sys.executable, "-c", code, *argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=os.environ | folders | {"PYTHONPATH": str(TESTS.parent)},
    )
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "glmtui" in loaded
    assert loaded & foreign == set()
