"""Changes from outside while the app runs: an edited file, another glmtui, a clock set back."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from glmtui.chat import Conversation, Message, conversation
from glmtui.store import Store
from support.app_pilot import folders, run_app
from support.emulated_terminal import Start, Terminal
from support.fake_server import Exchange, delta, serving
from support.session_driver import SessionDriver


def save_old_conversation(folder: Path) -> Path:
    talk = Conversation.new().add(Message("user", "Old question"))
    talk = talk.add(Message("assistant", "Old answer", finish_reason="stop"))
    with Store(folder / "data/conversations") as store:
        return store.save(talk)


def ask(terminal: Terminal, text: str) -> None:
    terminal.press(text.encode() + b"\r")


@pytest.mark.parametrize(("way", "ends"), [("", True), ("/open", True), ("", False)])
def test_a_file_edited_by_hand_while_a_reply_is_written(
    glmtui: Start, tmp_path: Path, way: str, ends: bool
) -> None:
    """The file stays as it was edited, and what is said goes on in a copy."""
    edited = threading.Event()

    def answer(exchange: Exchange) -> None:
        if exchange.answer_model_list():
            return
        exchange.start()
        exchange.event(delta("First half, "))
        edited.wait(60)
        if not ends:
            exchange.event(delta("and "))
            exchange.wait_for_disconnect()
        exchange.event(delta("second half."))
        exchange.event(delta(finish="stop"))
        exchange.end()

    path = save_old_conversation(tmp_path)
    with serving(answer) as server:
        terminal = glmtui("--continue", "-m", server.url)
        terminal.wait_for_text("ready")
        ask(terminal, "New question")
        terminal.wait_for_text("First half")
        terminal.wait_until(lambda: "First half" in path.read_text())
        by_hand = path.read_text().replace("Old answer", "My words")
        path.write_text(by_hand)
        edited.set()
        terminal.wait_for_text("second half." if ends else "half, and")
        terminal.wait_for_text(path.name[:20])  # the notice names the file
        terminal.wait_for_text("continues in a copy")
        assert path.read_text() == by_hand
        terminal.wait_until(lambda: len(list(path.parent.glob("*.toml"))) == 2)
        assert "not saved" not in "\n".join(terminal.screen.display)
        if way == "/open":  # the file as it is now
            (copy,) = set(path.parent.glob("*.toml")) - {path}
            terminal.wait_until(lambda: "second half" in copy.read_text())
            os.utime(path)  # the newest, first in the list
            ask(terminal, "/open Old")
            terminal.wait_for_text("Enter opens")
            terminal.press(b"\r")
            terminal.wait_for_text("My words")
        terminal.press(b"\x11")  # Ctrl+Q
        assert terminal.wait_for_exit() == 0
    assert path.read_text() == by_hand
    (other,) = set(path.parent.glob("*.toml")) - {path}
    contents = [m.content for m in Store(path.parent).load(other.stem[-8:]).path]
    assert contents[1:3] == ["Old answer", "New question"]
    assert contents[3].startswith("First half, ")
    assert contents[3].endswith("second half.") is ends


def test_two_apps_on_one_conversation(glmtui: Start, tmp_path: Path) -> None:
    """What is said in the second is in a copy before its model hears of it."""
    path = save_old_conversation(tmp_path)
    asked_with: list[int] = []

    def answer(exchange: Exchange) -> None:
        if not exchange.answer_model_list():
            texts = [file.read_text() for file in path.parent.glob("*.toml")]
            if len(asked_with) < 2:
                asked_with.append(sum("From the" in text for text in texts))
            exchange.reply("Fine.")

    with serving(answer) as server:
        first = glmtui("--continue", "-m", server.url)
        first.wait_for_text("ready")
        ask(first, "From the first")
        first.wait_for_text("Fine.")
        first.wait_until(lambda: "Fine." in path.read_text())
        second = glmtui("--continue", "-m", server.url)
        second.wait_for_text("ready")
        ask(second, "From the second")
        second.wait_for_text("is open in another")
        second.wait_for_text("continues in a copy")
        second.wait_until(lambda: "\n".join(second.screen.display).count("Fine.") == 2)
        second.wait_for_text(f"{first.process.pid} on")
        assert "not saved" not in "\n".join(second.screen.display)
        assert asked_with == [1, 2]
        ask(first, "Again")
        first.wait_until(lambda: "Again" in path.read_text())
        for app in (first, second):
            app.press(b"\x11")
            assert app.wait_for_exit() == 0
    contents = [
        [m.content for m in Store(path.parent).load(p.stem[-8:]).path]
        for p in sorted(path.parent.glob("*.toml"), key=lambda p: p != path)
    ]
    assert contents[0][2:5] == ["From the first", "Fine.", "Again"]
    assert contents[1][4:] == ["From the second", "Fine."]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
@pytest.mark.usefixtures(folders.__name__)
async def test_a_disk_without_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """As NFS without its lock daemon: it is said, once, and all goes on."""

    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    async with run_app() as driver:
        await driver.ask("Question")
        await driver.wait_for_text("does not support file locks")
        await driver.wait_for_text(os.strerror(number))
        driver.app.chat.notice.set("locks", "")
        await driver.ask("Again")
        assert "does not support file locks" not in driver.screen_text()
        contents = [m.content for m in driver.store.load("last").path]
        assert contents[::2] == ["Question", "Again"]


def test_a_clock_that_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of day decides nothing but what is written down as the time of day."""
    driver = SessionDriver(tmp_path)
    driver.ask("Before")
    today = datetime.now(timezone.utc)
    monkeypatch.setattr(conversation, "now", lambda: today - timedelta(days=4000))
    monkeypatch.setattr("time.time", lambda: 0.0)
    driver.ask("After")
    assert [m.content for m in driver.on_disk().path][::2] == ["Before", "After"]
    first, last = driver.on_disk().path[0], driver.on_disk().path[2]
    assert first.created is not None
    assert last.created is not None
    assert last.created < first.created
    assert driver.saver.close(5) == ()
    driver.disk.close()
    driver.engine.close(5)
    again = Store(tmp_path)
    (summary,) = again.summaries()
    assert again.problems == ()
    again.save(again.load(summary.id).add(Message("user", "Once more")))
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".toml")] == [
        f".{summary.id}.lock"
    ]
    again.close()
