"""kill -9 at random moments of a reply: the question is saved, and at most one second is lost.

Each victim is a process of its own with the app's own Session, Saver and Store, forked from one
that has them imported, so that many moments can be tried; a few more are the whole app in a
terminal. More of them by hand: ``pytest tests/faults/test_kills.py --kills 200 --real-kills 20``.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from glmtui.chat import Conversation
from glmtui.store import Store
from support.emulated_terminal import Start, Terminal
from support.fake_server import FakeServer
from support.llama_folders import write_llama_folder
from support.server_replies import RATE

SHARE = 10
"""Of so many kills at a time: what a reply needs of a core is little."""
LATEST = 2.5
"""Seconds after the question by which the kill has come."""

# Forks a victim for every folder on a line of stdin. A victim writes to its log the time at which
# its engine was asked, and then that of each word, before it lets the word go.
NURSERY = """
import os, struct, sys, time
sys.path[:0] = {paths!r}
from pathlib import Path
from support.session_driver import SessionDriver
from support.fake_engine import FakeEngine

def stamp(log):
    os.write(log, struct.pack("d", time.monotonic()))

def reply(folder):
    driver = SessionDriver(Path(folder, "conversations"))
    log = os.open(Path(folder, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    driver.engine.pieces = [f"{{n}} " for n in range(1, 5000)]
    driver.engine.rate = 200
    submit, emit = driver.engine.submit, driver.engine.emit

    def submitted(request):
        stamp(log)
        submit(request)

    def emitted(event):
        if type(event).__name__ == "Delta":
            stamp(log)
        emit(event)

    driver.engine.submit, driver.engine.emit = submitted, emitted
    driver.ask("Count")

for line in sys.stdin:
    pid = os.fork()
    if not pid:
        reply(line.strip())
        os._exit(0)
    print(pid, flush=True)
"""


@dataclass(frozen=True, slots=True)
class KilledRun:
    """What a victim left.

    Attributes:
        words: when each was said, by the clock that `at` is by.
    """

    folder: Path
    at: float
    asked: bool
    words: tuple[float, ...]


def kill_runs(tmp_path: Path, count: int) -> list[KilledRun]:
    """Kills so many victims, each at a moment of its own."""
    tests = Path(__file__).parents[1]
    code = NURSERY.format(paths=[str(tests), str(tests.parent)])
    nursery = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    moments = random.Random(count)  # other moments with another --kills
    done: list[KilledRun] = []
    try:
        for first in range(0, count, SHARE):
            alive: list[tuple[float, int, Path]] = []
            for n in range(first, min(first + SHARE, count)):
                folder = tmp_path / f"victim{n}"
                folder.mkdir()
                print(folder, file=nursery.stdin, flush=True)
                pid = int(nursery.stdout.readline())
                alive.append((time.monotonic() + moments.uniform(0, LATEST), pid, folder))
            for due, pid, folder in sorted(alive):
                time.sleep(max(0.0, due - time.monotonic()))
                os.kill(pid, signal.SIGKILL)
                at = time.monotonic()
                log = folder / "log"
                raw = log.read_bytes() if log.exists() else b""
                times = struct.unpack(f"{len(raw) // 8}d", raw[: len(raw) // 8 * 8])
                done.append(KilledRun(folder / "conversations", at, bool(times), times[1:]))
    finally:
        nursery.kill()
        nursery.communicate()
    return done


def saved_conversation(folder: Path) -> Conversation | None:
    """What the next start finds; nothing may be unreadable or left over."""
    store = Store(folder)
    listed = store.summaries()
    assert store.problems == ()
    left = [path.name for path in folder.iterdir()] if folder.exists() else []
    assert [name for name in left if name.startswith(".") or ".bad" in name] == []
    assert len(listed) <= 1
    return store.load(listed[0].id) if listed else None


def last_number(terminal: Terminal) -> int:
    """The highest that can be read."""
    words = " ".join(terminal.screen.display[:-6]).split()
    return max(int(word) for word in words if word.isdecimal())


def test_killed_at_random_moments(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    short: list[float] = []
    for death in kill_runs(tmp_path, request.config.getoption("--kills")):
        kept = saved_conversation(death.folder)
        if not death.asked:
            continue  # the engine had not been asked: the question may or may not be there
        assert kept is not None
        assert kept.path[0].content == "Count"
        said = kept.path[1].content if len(kept.path) > 1 else ""
        count = len(said.split())
        assert said == "".join(f"{n} " for n in range(1, count + 1))
        assert len(kept.path) == 1 or kept.path[1].finish_reason is None  # seen to be cut
        missing = [when for when in death.words if when <= death.at][count:]
        short.append(death.at - missing[0] if missing else 0.0)
    print(f"{len(short)} replies, at most {max(short):.2f} s short")
    assert short
    assert max(short) <= 1.0


def test_the_whole_app_killed_and_continued(glmtui: Start, counter: FakeServer) -> None:
    kept = 0
    for n, seconds in enumerate([0.2, 1.3, 0.8]):
        terminal = glmtui("-m", counter.url, *(["--continue"] if n else []))
        terminal.wait_for_text("ready")
        terminal.press(b"/continue\r" if n else b"Count\r")
        terminal.wait_for_text("tok/s")
        began = time.monotonic()
        terminal.wait_until(lambda: time.monotonic() - began > seconds)  # noqa: B023
        seen = last_number(terminal)
        terminal.process.kill()
        terminal.process.wait()
        found_now = saved_conversation(terminal.folder / "data/conversations")
        assert found_now is not None
        assert found_now.path[0].content == "Count"
        words = found_now.path[1].content.split() if found_now.path[1:] else []
        assert len(words) >= kept
        assert words[kept:] == [str(n) for n in range(1, len(words) - kept + 1)]
        assert seen - (len(words) - kept) <= RATE  # a second of them
        kept = len(words)
    assert kept


def test_the_real_engine_killed(
    glmtui: Start, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A small model of random weights, and every part of the program."""
    model = write_llama_folder(
        tmp_path / "model", max_position_embeddings=100_000, eos_token_id=None
    )
    moments = random.Random(0)
    for _ in range(request.config.getoption("--real-kills")):
        terminal = glmtui("-m", str(model), "-s", "temperature=0", "-s", "load.dtype=float32")
        terminal.wait_for_text("ready")
        terminal.press(b"Go on\r")
        terminal.wait_for_text("tok/s")
        began, seconds = time.monotonic(), moments.uniform(1.0, 2.0)
        terminal.wait_until(lambda: time.monotonic() - began > seconds)  # noqa: B023
        terminal.process.kill()
        terminal.process.wait()
        kept = Store(terminal.folder / "data/conversations").load("last")
        assert [m.content for m in kept.path[:1]] == ["Go on"]
        assert kept.path[1].content
        assert kept.path[1].finish_reason is None
        left = (terminal.folder / "data/conversations").iterdir()
        assert [path.name for path in left if path.suffix != ".toml"] == []
