"""Waiting for a server or a disk can be cancelled, and the next request is then processed."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from glmtui.chat import Message
from glmtui.engine import open_model as opening
from glmtui.engine import thread
from glmtui.engine.api import Delta, Event, Finished, LoadFailed, Loading, Ready, Request
from glmtui.engine.model_info import LoadOptions, ModelInfo, ServerSpec, Target
from glmtui.engine.progress import LoadCancelled
from glmtui.engine.thread import EngineThread
from support.emulated_terminal import Start, Terminal
from support.fake_server import Exchange, delta, serving
from support.scripted_model import ScriptedModel

PATIENCE = 20.0  # seconds
LIMIT = 10.0  # for actions that take less than a second on an idle machine
INFO = ModelInfo("toy", Path("/nowhere"), "llama", 64, 0, "float32")


class Desk:
    """An EngineThread with its events."""

    def __init__(self) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        self.engine = EngineThread(self.events.put)
        self.engine.start()

    def load(self, target: Target) -> None:
        self.engine.load(target, LoadOptions())

    def ask(self, request_id: int = 1) -> str:
        """The text of a reply."""
        self.engine.submit(Request(request_id, (Message("user", "hi"),)))
        return "".join(e.text for e in self.until(Finished) if isinstance(e, Delta))

    def until(self, *kinds: type[Event]) -> list[Event]:
        events = [self.events.get(timeout=PATIENCE)]
        while not isinstance(events[-1], kinds):
            events.append(self.events.get(timeout=PATIENCE))
        return events


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    assert desk.engine.close(PATIENCE)


def replace_loads(monkeypatch: pytest.MonkeyPatch, opened: list[Callable[..., Any]]) -> None:
    """Replace the next loads, in order, by these functions."""
    turns = iter(opened)

    def open_model(target: Target, options: LoadOptions, hook: Any, cancelled: Any) -> Any:
        return next(turns)(cancelled)

    monkeypatch.setattr(opening, "open_model", open_model)


# ---- loads


def drip(exchange: Exchange) -> None:
    """Send a list of models that never ends, byte by byte."""
    exchange.send_response(200)
    exchange.send_header("Content-Length", "100000")
    exchange.end_headers()
    while True:
        exchange.wfile.write(b" ")
        time.sleep(0.02)


def stay_silent(exchange: Exchange) -> None:
    exchange.wait_for_disconnect(PATIENCE)


def drip_headers(exchange: Exchange) -> None:
    exchange.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        exchange.wfile.write(b"X-More: 1\r\n")
        time.sleep(0.02)


@pytest.mark.parametrize("wait", [drip, stay_silent, drip_headers])
def test_a_server_that_never_ends_its_list_is_left_for_the_next(
    desk: Desk, wait: Callable[[Exchange], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread, "GRACE_SECONDS", 1e6)  # it must return by itself
    requested = threading.Event()

    def slow(exchange: Exchange) -> None:
        requested.set()
        wait(exchange)

    def quick(exchange: Exchange) -> None:
        if not exchange.answer_model_list():
            exchange.reply("here")

    with serving(slow) as stuck, serving(quick) as sound:
        desk.load(ServerSpec(stuck.url))
        assert requested.wait(PATIENCE)
        desk.load(ServerSpec(sound.url))
        assert isinstance(desk.until(Ready, LoadFailed)[-1], Ready)
        assert desk.ask() == "here"


def test_a_name_that_is_never_found_is_left_for_the_next(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    monkeypatch.setattr(thread, "GRACE_SECONDS", 1e6)

    requested, over = threading.Event(), threading.Event()
    real = socket.getaddrinfo

    def look_up(host: Any, *args: Any, **options: Any) -> Any:
        if host in (b"slow.example", "slow.example"):
            requested.set()
            over.wait(PATIENCE)
            raise socket.gaierror(-2, "Name or service not known")
        return real(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(lambda exchange: exchange.answer_model_list() or exchange.reply("here")) as sound:
        desk.load(ServerSpec("http://slow.example/v1"))
        assert requested.wait(PATIENCE)
        desk.load(ServerSpec(sound.url))
        assert isinstance(desk.until(Ready, LoadFailed)[-1], Ready)
        assert desk.ask() == "here"
    over.set()


def test_a_load_that_waits_for_a_disk_is_left_for_the_next(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread, "GRACE_SECONDS", 0.1)
    begun, disk = threading.Event(), threading.Event()
    late = ScriptedModel(["late"])

    def stuck(cancelled: threading.Event) -> ScriptedModel:
        begun.set()
        assert disk.wait(PATIENCE)  # like a read, this ignores `cancelled`
        return late

    replace_loads(monkeypatch, [stuck, lambda cancelled: ScriptedModel(["new"])])
    desk.load(INFO)
    assert begun.wait(PATIENCE)
    desk.load(INFO)
    assert desk.ask() == "new"
    disk.set()  # it answers after all: its model is closed
    for worker in desk.engine._given_up:
        worker.join(PATIENCE)
    assert late.closed
    assert desk.ask(2) == "new"
    assert not any(isinstance(event, (Ready, Loading)) for event in desk.events.queue)


def test_an_abandoned_load_that_works_is_waited_for(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("this system does not tell what a thread does")
    monkeypatch.setattr(thread, "GRACE_SECONDS", 0.1)
    begun, ended = threading.Event(), threading.Event()

    def busy(cancelled: threading.Event) -> ScriptedModel:
        begun.set()
        deadline = time.thread_time() + 0.4
        while time.thread_time() < deadline:
            pass
        ended.set()
        raise LoadCancelled

    def after(cancelled: threading.Event) -> ScriptedModel:
        assert ended.is_set()
        return ScriptedModel(["new"])

    replace_loads(monkeypatch, [busy, after])
    desk.load(INFO)
    assert begun.wait(PATIENCE)
    desk.load(INFO)
    assert isinstance(desk.until(Ready, LoadFailed)[-1], Ready)
    assert desk.engine._given_up == []


def test_closing_in_a_load_that_does_not_come_back_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk()
    begun, disk = threading.Event(), threading.Event()

    def stuck(cancelled: threading.Event) -> ScriptedModel:
        begun.set()
        disk.wait(PATIENCE)
        raise LoadCancelled

    replace_loads(monkeypatch, [stuck])
    desk.load(INFO)
    assert begun.wait(PATIENCE)
    assert not desk.engine.close(0.05)
    disk.set()
    assert desk.engine.close(PATIENCE)


# ---- replies, in the app


def blanks(exchange: Exchange) -> None:
    exchange.start()
    while True:
        exchange.write(b"\n")
        time.sleep(0.01)


def comments(exchange: Exchange) -> None:
    exchange.start()
    exchange.event(delta("Well,"))
    while True:
        exchange.write(b": " + b"x" * 10_000 + b"\n\n")


def one_event(exchange: Exchange) -> None:
    exchange.start()
    exchange.event(delta("Well,"))
    exchange.write(b"data: {")
    while True:
        exchange.write(b" ")
        time.sleep(0.001)


def words(exchange: Exchange) -> None:
    exchange.start()
    while True:
        exchange.event(delta("word "))


@pytest.mark.parametrize(
    ("answer", "leave"),
    [(blanks, "stop"), (words, "stop"), (comments, "quit"), (one_event, "quit")],
)
def test_a_stream_that_never_ends_is_left_within_a_second(
    glmtui: Start, answer: Callable[[Exchange], None], leave: str
) -> None:
    requested, left = threading.Event(), threading.Event()

    def endless(exchange: Exchange) -> None:
        if exchange.answer_model_list():
            return
        requested.set()
        try:
            answer(exchange)
        except OSError:
            left.set()
            raise

    with serving(endless) as server:
        terminal = glmtui("-m", server.url)
        terminal.wait_for_text("ready")
        terminal.press(b"Go\r")
        terminal.wait_until(requested.is_set)
        if leave == "stop":
            stop(terminal, left)
        terminal.press(b"\x11")
        began = time.monotonic()
        assert terminal.wait_for_exit() == 0
        assert time.monotonic() - began < LIMIT


def stop(terminal: Terminal, left: threading.Event) -> None:
    """Press Esc until the server sees the disconnect."""
    terminal.press(b"\x1b")
    began = time.monotonic()
    terminal.wait_until(left.is_set)
    assert time.monotonic() - began < LIMIT
    terminal.wait_for_text("stopped")
