"""Logs contain errors, but no text of a conversation and no key, whatever the level."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from glmtui import logs
from glmtui.chat import Message, SamplingParams
from glmtui.engine.model_info import ServerSpec
from glmtui.engine.open_model import open_model
from glmtui.engine.pull import pull
from glmtui.errors import GlmtuiError
from support.emulated_terminal import Terminal
from support.fake_hub import hub_server
from support.fake_server import Exchange, delta, serving
from support.tiny_llama import llama_files

# The app with two bugs: in the thread of the engine, and in that of the screen.
FAULTY = """
import sys
from glmtui.config import Settings
from glmtui.engine.remote import ServerModel
from glmtui.ui import launch
from glmtui.ui.session.workspace import Workspace

stream = ServerModel.stream

def broken(self, messages, *rest, **named):
    said = messages[-1].content
    if "engine" in said:
        raise ZeroDivisionError("in the engine")
    return stream(self, messages, *rest, **named)

def fault(self):
    said = self.session.conversation.messages
    raise ZeroDivisionError("in the app")

ServerModel.stream = broken
Workspace.fork = fault
sys.exit(launch.run(Settings(model=sys.argv[1]), []))
"""


def answer(exchange: Exchange) -> None:
    if not exchange.answer_model_list():
        exchange.reply("private-reply")


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("LAB_KEY", "sk-secret-4711")
    monkeypatch.setenv("TEXTUAL", "")
    with serving(answer) as server:
        terminal = Terminal(tmp_path / "new", ["-c", FAULTY, server.url])
        yield terminal
        terminal.close()


def test_a_fault_is_in_the_log_and_nothing_that_was_said(faulty: Terminal) -> None:
    faulty.wait_for_text("ready")
    faulty.press(b"private-question\r")
    faulty.wait_for_text("private-reply")
    faulty.press(b"private-question for the engine\r")
    faulty.wait_for_text("unexpected")
    faulty.press(b"/fork\r")
    assert faulty.wait_for_exit() == 1
    assert b"had an internal error" in faulty.output
    log = faulty.folder / "state/glmtui.log"
    text = log.read_text()
    for fault in ("in the engine", "in the app"):
        assert f"ZeroDivisionError: {fault}" in text
    assert "Traceback" in text
    assert "private" not in text
    assert "4711" not in text
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert "private-reply" in faulty.saved_messages()  # nothing was lost


def test_every_folder_the_app_makes_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with serving(answer) as server:
            terminal = Terminal(tmp_path / "new", ["-m", "glmtui", "-m", server.url])
            terminal.wait_for_text("ready")
            terminal.press(b"hi\r")
            terminal.wait_for_text("private-reply")
            terminal.press(b"\x11")  # Ctrl+Q
            assert terminal.wait_for_exit() == 0
            terminal.close()
    finally:
        os.umask(before)
    for path in (tmp_path / "new").rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), f"{path} has {mode:o}"


def test_a_long_log_begins_anew(tmp_path: Path) -> None:
    log = tmp_path / "state/x.log"
    for _ in range(3):
        handle = logs.open_log(log)
        os.write(handle, b"x" * (logs.MAX_LOG_BYTES + 1))
        os.close(handle)
    os.close(logs.open_log(log))
    sizes = {path.name: path.stat().st_size for path in log.parent.iterdir()}
    assert sizes == {"x.log": 0, "x.old.log": logs.MAX_LOG_BYTES + 1}


def test_a_log_that_grows_long_begins_anew_while_it_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_LOG_BYTES", 1000)
    monkeypatch.setattr(logs, "ROTATION_CHECK_SECONDS", 0.01)
    log = tmp_path / "x.log"
    first, second = logs.open_log(log), logs.open_log(log)
    written, deadline = 0, time.monotonic() + 30
    with logs.log_rotation(log, first, second):
        while not (tmp_path / "x.old.log").exists():  # like a library that writes all the time
            assert time.monotonic() < deadline
            os.write(second if written % 2 else first, b"%09d\n" % written)
            written += 1
    for handle in (first, second):
        os.write(handle, b"the end\n")
        assert os.path.samestat(os.fstat(handle), log.stat())
        assert not os.get_inheritable(handle)
        os.close(handle)
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    lines = (tmp_path / "x.old.log").read_text() + log.read_text()
    numbers = [f"{n:09d}" for n in range(written)]
    assert sorted(lines.splitlines()) == sorted(["the end", "the end", *numbers])


def test_two_programs_with_one_long_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_LOG_BYTES", 10)
    log = tmp_path / "x.log"
    ours, theirs = logs.open_log(log), logs.open_log(log)
    os.write(ours, b"long enough\n")
    logs.rotate_if_large(log, ours)
    os.write(ours, b"new\n")
    logs.rotate_if_large(log, theirs)  # the rotated log stays, and there is no second rotation
    os.write(theirs, b"too\n")
    assert log.read_text() == "new\ntoo\n"
    assert (tmp_path / "x.old.log").read_text() == "long enough\n"
    os.close(ours)
    os.close(theirs)


def test_a_log_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "x.log").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        logs.open_log(tmp_path / "x.log")
    assert (tmp_path / "precious").read_text() == "mine"


def test_no_key_is_logged_at_any_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All libraries log at level DEBUG, while a key is sent to a hub and to a server that repeats
    it."""
    import huggingface_hub.constants

    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore", "huggingface_hub", "glmtui"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
        caplog.set_level(logging.DEBUG, name)
    monkeypatch.setenv("HF_TOKEN", "hf_secret4711")
    monkeypatch.setenv("GLMTUI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def repeating(exchange: Exchange) -> None:
        text = exchange.headers["Authorization"]
        if exchange.command == "GET":
            exchange.json({"data": [{"id": "m"}]})
        elif "wrong" in str(exchange.body):
            exchange.json({"error": {"message": f"no such key: {text}"}}, status=401)
        else:
            exchange.start()
            exchange.event(delta("hi", finish="stop"))
            exchange.end()

    text = ""
    with hub_server() as hub, serving(repeating) as server:
        hub.token = "hf_secret4711"
        hub.repos["a/b"] = llama_files()
        pull("a/b", endpoint=hub.url)
        hub.status = 403
        with pytest.raises(GlmtuiError) as refused:
            pull("a/c", endpoint=hub.url)
        text += str(refused.value)
        model = open_model(ServerSpec(server.url, api_key="sk-secret-4711"))
        for words in ("hello", "wrong"):
            try:
                list(model.stream([Message("user", words)], SamplingParams()))
            except GlmtuiError as error:
                text += str(error)
    assert "Bearer hf_secret4711" in hub.tokens
    assert "no such key" in text
    assert "HTTP Request" in caplog.text
    assert "4711" not in caplog.text + text
