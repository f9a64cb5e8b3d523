"""The external editor: the terminal is suspended, and no text is lost."""

from __future__ import annotations

import shlex
import signal
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from glmtui.ui.terminal import editor
from support.app_pilot import folders, run_app
from support.emulated_terminal import Terminal

__all__ = ["folders"]

APPEND = "open(sys.argv[1], 'a', encoding='utf-8').write({!r})"
WAIT = "print('EDITING', flush=True); import time; time.sleep(60)"


@pytest.fixture
def edit_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Makes an editor of a line of Python, whose sys.argv[1] is the file."""

    def use(code: str) -> None:
        script = tmp_path / "edit.py"
        script.write_text(f"import signal, sys\n{code}\n", "utf-8")
        monkeypatch.setenv("VISUAL", shlex.join([sys.executable, str(script)]))

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return use


def test_the_editor_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISUAL", " ")
    monkeypatch.setenv("EDITOR", "code --wait 'a b'")
    assert editor.editor_command() == ["code", "--wait", "a b"]
    monkeypatch.setenv("VISUAL", "it's")
    assert editor.editor_command() == ["it's"]


def test_the_edited_text_comes_back(
    start: Callable[..., Terminal], edit_with: Callable[[str], None], tmp_path: Path
) -> None:
    edit_with(APPEND.format(" 你好\nsecond\n"))
    terminal = start()
    terminal.press(b"first\x07")
    terminal.wait_for_text("second")
    terminal.press(b"!\r")
    terminal.wait_for_text("Hello there.")
    assert terminal.saved_messages()[0] == "first 你好\nsecond!"
    assert not list(tmp_path.glob("glmtui-*"))
    terminal.press(b"\x11")
    assert terminal.wait_for_exit() == 0
    assert termios.tcgetattr(terminal.slave) == terminal.modes


RELEASED = """engine.pause_after = 1; engine.pieces = ["Once", " upon", " a time."]
    import pathlib, threading, time

    def release():
        while not pathlib.Path({go!r}).exists():
            time.sleep(0.02)
        engine.resume.set()

    threading.Thread(target=release, daemon=True).start()"""


def test_a_reply_continues_and_is_saved_while_the_editor_runs(
    start: Callable[..., Terminal], edit_with: Callable[[str], None], tmp_path: Path
) -> None:
    go, done = tmp_path / "go", tmp_path / "done"
    edit_with(
        "import pathlib, time\nprint('EDITING', flush=True)\n"
        f"while not pathlib.Path({str(done)!r}).exists():\n    time.sleep(0.02)\n"
        + APPEND.format(" more")
    )
    terminal = start(RELEASED.format(go=str(go)))
    terminal.press(b"Hi\r")
    terminal.wait_for_text("Once")
    terminal.press(b"next\x07typed ahead")
    terminal.wait_for_text("EDITING")
    go.touch()
    terminal.wait_until(lambda: terminal.saved_messages() == ["Hi", "Once upon a time."])
    assert "upon" not in "\n".join(terminal.screen.display)
    done.touch()
    terminal.wait_for_text("Once upon a time.")
    terminal.wait_for_text("next more")


def test_the_text_is_kept_if_the_editor_fails(
    start: Callable[..., Terminal], edit_with: Callable[[str], None], tmp_path: Path
) -> None:
    edit_with(APPEND.format(" more") + "\nsys.exit(3)")
    terminal = start()
    terminal.press(b"first\x07")
    terminal.wait_for_text("exit code 3")
    terminal.press(b"\r")
    terminal.wait_for_text("Hello there.")
    assert terminal.saved_messages()[0] == "first"
    assert [file.read_text() for file in tmp_path.glob("glmtui-*")] == ["first more"]


def test_a_missing_editor_is_reported(
    start: Callable[..., Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISUAL", "no-such-editor")
    terminal = start()
    terminal.press(b"first\x07")
    terminal.wait_for_text("no-such-editor failed")
    terminal.press(b"!")
    terminal.wait_for_text("first!")


def test_ctrl_c_goes_to_the_editor(
    start: Callable[..., Terminal], edit_with: Callable[[str], None]
) -> None:
    edit_with(f"try:\n    {WAIT}\nexcept KeyboardInterrupt:\n    {APPEND.format(' caught')}")
    terminal = start()
    terminal.press(b"first\x07")
    terminal.wait_for_text("EDITING")
    terminal.press(b"\x03")
    terminal.wait_for_text("first caught")
    assert terminal.process.poll() is None


def test_a_signal_ends_the_editor_and_then_the_app(
    start: Callable[..., Terminal], edit_with: Callable[[str], None]
) -> None:
    edit_with(WAIT)
    terminal = start()
    terminal.press(b"first\x07")
    terminal.wait_for_text("EDITING")
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.wait_for_exit() == 128 + signal.SIGTERM
    assert termios.tcgetattr(terminal.slave) == terminal.modes


async def test_a_terminal_that_cannot_be_suspended_is_reported(
    folders: Path, edit_with: Callable[[str], None]
) -> None:
    edit_with("")
    async with run_app() as driver:
        driver.app.chat.prompt.set_text("first")
        await driver.pilot.press("ctrl+g")
        await driver.wait_for_text("cannot be suspended")
        assert driver.app.chat.prompt.text == "first"
        assert not list(folders.glob("glmtui-*"))


async def test_no_editor_at_all_is_reported(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VISUAL", "EDITOR", "PATH"):
        monkeypatch.setenv(name, "")
    async with run_app() as driver:
        await driver.pilot.press("ctrl+g")
        await driver.wait_for_text("No editor found")
