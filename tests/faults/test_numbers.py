"""Absurd numbers from files and servers: the app survives, and its layout holds."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from glmtui.chat import GenerationStats, Message
from glmtui.cli.text_tables import format_size
from glmtui.store import loads
from glmtui.ui.panels.stats import conversation_stats, reply_stats, stats_page
from glmtui.ui.panels.status_bar import Status, context_meter, status_line
from glmtui.ui.widgets.meters import bar, format_gigabytes, format_token_count, sparkline
from support.emulated_terminal import Start
from support.fake_server import Exchange, delta, serving

DIGITS = "9" * 400
FLOATS = st.one_of(
    st.floats(),
    st.integers(-(10**400), 10**400),
    st.sampled_from([0.0, -0.0, 5e-324, 1e-306, 1e308, 1e15, math.inf, -math.inf, math.nan]),
)
TALK = """
title = "Numbers"
model = "m"
[[messages]]
role = "user"
content = "question"
[[messages]]
role = "assistant"
finish_reason = "stop"
content = "said before"
[messages.stats]
{stats}
"""
STATS = {
    "digits": "\n".join(f"{name} = {DIGITS}" for name in ("prompt_tokens", "peak_memory")),
    "large": "generated_tokens = 9000000000000000000\ndecode_seconds = 1e-300",
    "small": "generated_tokens = 9\ndecode_seconds = 5e-324\nfirst_token_seconds = 1e308",
    "negative": "prompt_tokens = -5\nreused_tokens = -99\nfirst_token_seconds = -0.0",
}


@pytest.mark.parametrize("name", STATS)
def test_what_a_file_says_a_reply_cost(name: str) -> None:
    stats = loads(TALK.format(stats=STATS[name]), "toml").messages[1].stats
    assert stats is not None
    widest = max(len(line) for line in reply_stats(stats).plain.splitlines())
    assert widest < 60
    assert "e+" not in reply_stats(stats).plain


def strange_clock(exchange: Exchange) -> None:
    if exchange.command == "GET":
        exchange.json({"object": "list", "data": [{"id": "m", "max_model_len": int(DIGITS)}]})
        return
    exchange.start()
    for _ in range(3):
        exchange.event(delta("word "))
    timings = {"prompt_ms": 1e-306, "predicted_ms": 1e-306, "predicted_n": int(DIGITS)}
    usage = {"prompt_tokens": int(DIGITS), "completion_tokens": 1 << 39}
    exchange.event({**delta(finish="stop"), "timings": timings, "usage": usage})
    exchange.end()


@pytest.mark.parametrize("name", STATS)
def test_the_app_opens_such_a_file_and_shows_what_a_reply_cost(
    glmtui: Start, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "data/conversations"
    folder.mkdir(parents=True)
    (folder / "numbers-1f2e3d4c.toml").write_text(TALK.format(stats=STATS[name]))
    with serving(strange_clock) as server:
        terminal = glmtui("-m", server.url, "--continue")
        terminal.wait_for_text("said before")
        terminal.press(b"\x1bOR")  # F3
        terminal.wait_for_text("Last reply")
        terminal.press(b"\x1b")
        terminal.wait_until(lambda: "Last reply" not in "\n".join(terminal.screen.display))
        if name == "small":  # and what the server says of the next one
            terminal.press(b"Again\r")
            terminal.wait_for_text("word word word")
            terminal.press(b"\x1bOR")
            terminal.wait_for_text("Last reply")
            terminal.press(b"\x1b")
        terminal.press(b"\x11")
        assert terminal.wait_for_exit() == 0
    assert b"Traceback" not in terminal.output


@given(st.lists(FLOATS, max_size=5), FLOATS)
@example([1e308, -1e308], 1e308)
@example([5e-324, 0.0], 10**400)
@example([], -1e14)
def test_meters_take_any_number(values: list[float], value: float) -> None:
    assert len(format_gigabytes(value)) < 12
    assert len(format_size(value)) < 20  # type: ignore[arg-type]
    count = value if isinstance(value, int) or not math.isfinite(value) else int(value)
    assert len(format_token_count(count)) < 20  # type: ignore[arg-type]
    assert len(sparkline(values, 4)) <= 4
    assert bar([(one, "━", "") for one in values], 10).cell_length == 10
    assert context_meter(count, count, 3).cell_length < 60  # type: ignore[arg-type]
    facts = Status("ready", used=count, limit=count)  # type: ignore[arg-type]
    assert status_line(facts, 80).cell_length == 80


COUNTS = st.integers(-(10**400), 10**400)


@given(st.lists(st.tuples(COUNTS, COUNTS, FLOATS, FLOATS), min_size=1, max_size=3))
@example([(10**400, 10**400, 10**400, 10**400), (-1, 9, -math.inf, math.nan)])
@example([(9, 0, 1e-306, 0), (9, 0, 1e308, 1e308)])
def test_a_page_takes_any_number(rows: list[tuple[int, int, float, float]]) -> None:
    stats = [GenerationStats(a, b, a, c, c, d, b) for a, b, c, d in rows]
    for one in stats:
        assert max(map(len, reply_stats(one).plain.splitlines())) < 100
        for rate in (one.prefill_rate, one.decode_rate):
            assert rate is None or 0 < rate <= 1e9
    assert max(map(len, conversation_stats(stats, 30).plain.splitlines())) < 120
    messages = [Message("assistant", "", stats=one) for one in stats]
    assert stats_page(messages, (), 80).plain
