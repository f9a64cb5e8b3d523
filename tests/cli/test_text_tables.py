"""The tables and the progress line of the command line."""

import io
import sys
import types
from datetime import datetime, timezone

import pytest
from rich.cells import cell_len

from glmtui.cli import text_tables
from glmtui.cli.progress import ERASE, ProgressLine, format_progress
from glmtui.engine.catalog.known_models import MODELS
from glmtui.engine.hardware.host_memory import HostMemory
from glmtui.engine.hardware.machine import Snapshot
from glmtui.engine.model_info import ModelInfo
from glmtui.engine.progress import Progress
from glmtui.store import Summary


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


GB = 10**9


def machine(free):
    """A machine without GPU and with this much free memory."""
    return Snapshot((), HostMemory(total=32 * GB, available=free, used_by_us=None))


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def test_an_installed_model_is_listed_once(tmp_path):
    here = ModelInfo("smollm2", tmp_path, "llama", 8192, 96_654_288, "int4 g32")
    lines = text_tables.models_table([here], MODELS[:2], machine(20 * GB), 80).splitlines()
    assert lines[1].split() == ["smollm2", "97", "MB", "8,192", "-", "-", "0.3", "installed"]
    assert [line.split()[0] for line in lines] == ["NAME", "smollm2", MODELS[1].name]


@pytest.mark.parametrize(
    ("free", "state"),
    [
        (20, "fits"),
        (10, "fits as int8"),
        (6, "fits as int4"),
        (4, "too large"),
        (None, "unknown"),
    ],
)
def test_the_state_is_the_largest_format_that_fits(free, state):
    chatglm = next(model for model in MODELS if model.name == "THUDM/chatglm-6b")
    here = machine(free and free * GB)
    line = text_tables.models_table([], [chatglm], here, 80).splitlines()[1]
    assert line.endswith(f"  13.3   7.6   5.5  {state}")


def test_control_characters_in_a_name_are_harmless(tmp_path):
    hostile = ModelInfo("a\nb\x1b[2J", tmp_path, "llama", 8192, 5, "int4")
    lines = text_tables.models_table([hostile], [], machine(GB), 80).splitlines()
    assert len(lines) == 2
    assert "\x1b" not in lines[1]


def test_wide_characters_line_up():
    lines = text_tables.format_table(
        ("A", " B"), [("中文", "1"), ("ab", "100")], 80, elastic=0
    ).splitlines()
    assert [cell_len(line) for line in lines] == [9, 9, 9]


@pytest.mark.parametrize("width", [20, 40, 41, 80, 200])
def test_a_table_fits_the_width(width):
    summaries = [
        Summary("0" * 8, title, "m", datetime.now(timezone.utc), None, 3)
        for title in ("中" * 99, "x" * 99, "")
    ]
    lines = text_tables.conversations_table(summaries, width).splitlines()
    widest = max(cell_len(line) for line in lines)
    least = 8 + 16 + 9 + 5 + 8 + 4 * 2  # columns that are not cut, and what is left of the title
    assert widest <= max(width, least)


@pytest.mark.parametrize(
    ("progress", "rate", "text"),
    [
        (Progress("looking"), None, "looking"),
        (Progress("x", 41_900_000, 97_000_000), None, "x: 43 %, 42 of 97 MB"),
        (Progress("x", 41_900_000, 97_000_000), 11e6, "x: 43 %, 42 of 97 MB, 11.0 MB/s, 5 s left"),
        (
            Progress("x", 10**9, 13 * 10**9),
            1e7,
            "x: 7 %, 1,000 of 13,000 MB, 10.0 MB/s, 20 min left",
        ),
        (Progress("x", 97_000_000, 97_000_000), 11e6, "x: 100 %, 97 of 97 MB"),
        (Progress("x", 5_000_000), 5e6, "x: 5 MB"),
        (Progress("x", 1, 2), 0.0, "x: 50 %, 0 of 0 MB"),
    ],
)
def test_the_text_of_the_progress(progress, rate, text):
    assert format_progress(progress, rate) == text


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    clock = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr("glmtui.cli.progress.time.monotonic", lambda: clock.now)
    return clock


def test_the_rate_excludes_what_was_already_done(monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with ProgressLine() as line:
        line(Progress("x", 50_000_000, 90_000_000))
        clock.now += 2
        line(Progress("x", 70_000_000, 90_000_000))
    shown = sys.stderr.getvalue().split(ERASE)
    assert shown == ["", "x: 55 %, 50 of 90 MB", "x: 77 %, 70 of 90 MB, 10.0 MB/s, 2 s left", ""]


def test_the_line_is_redrawn_ten_times_a_second(monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", Terminal())
    line = ProgressLine()
    for n in range(1, 1000):
        line(Progress("x", n, 1000))
        clock.now += 0.001
    assert sys.stderr.getvalue().count(ERASE) <= 11


def test_a_long_line_is_cut_to_the_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    ProgressLine()(Progress("下载" * 99))
    assert cell_len(sys.stderr.getvalue().removeprefix(ERASE)) <= 79
