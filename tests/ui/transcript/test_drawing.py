"""Drawing of the transcript: correct, and limited to what has changed."""

from __future__ import annotations

import random
import re

import pytest
from rich.console import RenderableType
from textual._compositor import CompositorUpdate
from textual.screen import Screen

from glmtui.chat import Message
from glmtui.sanitize import sanitize
from glmtui.ui.session.safe_conversation import sanitized_message
from support.transcript_app import REPLY, TranscriptApp, numbered, reply


async def test_messages_look_different_by_role() -> None:
    app = TranscriptApp()
    async with app.run_test(size=(50, 20)) as pilot:
        app.transcript.show(
            [
                Message("user", "# not a *head*\n    as typed", id="q"),
                reply("A **reply**"),
                reply("Another", id="s", finish_reason="cancelled"),
                reply("Part", id="t", finish_reason="error", error="out of memory"),
                reply("", id="u"),
            ],
            {"s": (2, 3)},
        )
        await pilot.pause()
        assert [row for row in app.rows if row] == [
            "▌ # not a *head*",
            "▌     as typed",
            "  smollm2",
            "  A reply",
            "  smollm2  2/3",
            "  Another",
            "  stopped",
            "  smollm2",
            "  Part",
            "  error: out of memory",
            "  smollm2",
            "  empty reply",
        ]


async def test_control_characters_and_markup_in_a_message_are_text() -> None:
    app = TranscriptApp()
    async with app.run_test(size=(60, 12)) as pilot:
        nasty = "\x1b[2J\x9b31m[bold]x[/] [@click=app.quit]y[/]\x07"
        messages = [Message("user", nasty, id="q"), reply(nasty, model="\x1b]0;t")]
        failed = reply(nasty, id="s", finish_reason="error", error=nasty)
        app.transcript.show([*map(sanitized_message, messages)])  # as the session does
        app.transcript.begin(reply("", id="s", finish_reason=None))
        app.transcript.append(sanitize(nasty))
        app.transcript.finish(sanitized_message(failed))
        await pilot.pause()
        text = "\n".join(app.rows)
        assert text.count("␛[2J�31m[bold]x[/] [@click=app.quit]y[/]␇") == 4
        assert "␛]0;t" in text


async def test_a_streamed_reply_looks_like_a_shown_one() -> None:
    app = TranscriptApp()
    async with app.run_test(size=(50, 40)) as pilot:
        app.transcript.begin(reply("", finish_reason=None))
        for char in REPLY:
            app.transcript.append(char)
        app.transcript.finish(reply(REPLY))
        await pilot.pause()
        streamed = app.cells
        app.transcript.show([reply(REPLY)])
        app.forget_terminal()
        app.transcript.refresh()
        await pilot.pause()
        assert app.cells == streamed


async def test_a_token_redraws_only_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    app = TranscriptApp()
    async with app.run_test(size=(80, 24)) as pilot:
        app.transcript.show([reply(REPLY)])
        app.transcript.begin(reply("Some words", id="s", finish_reason=None))
        await pilot.pause()
        before = app.bytes
        app.transcript.append(" and one")
        await pilot.pause()
        assert app.bytes - before < 150
        before = app.bytes
        app.transcript.append("")
        await pilot.pause(0.05)
        assert app.bytes == before


async def test_fast_lines_scroll_several_at_a_time() -> None:
    app = TranscriptApp()
    async with app.run_test(size=(80, 24)) as pilot:
        transcript = app.transcript
        transcript.show([reply(numbered(0, 30))])
        transcript.begin(reply("", id="s", finish_reason=None))
        await pilot.pause()
        tops = []
        for n in range(25):  # ten lines a second
            app.time += 0.2
            transcript.append(f"line {n}\n\n")
            await pilot.pause()
            assert f"  line {n}" in app.rows
            tops.append(transcript.scroll_offset.y)
        scrolls = len(set(tops)) - 1
        assert tops[-1] - tops[0] > 40
        assert scrolls <= 25 * 0.2 / 0.25 + 2


async def test_very_fast_lines_are_drawn_a_few_times_a_second_and_all_at_the_end() -> None:
    app = TranscriptApp()
    async with app.run_test(size=(80, 24)) as pilot:
        transcript = app.transcript
        transcript.begin(reply("", finish_reason=None))
        transcript.append(numbered(0, 40))
        await pilot.pause()
        before = app.bytes
        for n in range(40, 140, 10):
            transcript.append(numbered(n, n + 10))
            await pilot.pause()
        assert app.bytes - before < 3 * 24 * 80
        transcript.finish(reply(numbered(0, 140)))
        await pilot.pause()
        assert "  line 139" in app.rows


@pytest.mark.parametrize("seed", range(4))
async def test_incremental_drawing_equals_a_full_redraw(seed: int) -> None:
    """Whatever happens, the screen is as if all of it had been drawn anew."""
    dice = random.Random(seed)
    app = TranscriptApp()
    async with app.run_test(size=(60, 16)) as pilot:
        transcript, end = app.transcript, 0
        transcript.show([Message("user", "q" * 100, id="q"), reply(REPLY)][: dice.randint(0, 2)])
        transcript.begin(reply("", id="s", finish_reason=None))
        for _ in range(30):
            app.time += dice.choice([0.01, 0.04, 0.5])
            do = dice.choice(["append"] * 8 + ["up", "down", "end", "home", "size", "select"])
            if do == "append":
                start, end = end, end + dice.choice([1, 5, 30, 300])
                transcript.append((REPLY * 40)[start:end])
            elif do == "size":
                await pilot.resize_terminal(dice.randint(30, 120), dice.randint(8, 30))
            elif do == "select":
                dice.choice([transcript.text_select_all, transcript.screen.clear_selection])()
            else:
                getattr(transcript, f"scroll_{do}")()
            await pilot.pause()
        transcript.finish(reply((REPLY * 40)[:end], id="s"))
        await pilot.pause()
        drawn = app.cells
        app.forget_terminal()
        transcript.screen.refresh()
        await pilot.pause()
        assert app.cells == drawn


async def test_another_theme_recolours_what_is_drawn() -> None:
    app = TranscriptApp()
    async with app.run_test(size=(60, 24)) as pilot:
        app.transcript.show([Message("user", "Ask", id="q"), reply(REPLY)])
        await pilot.pause()
        dark, rows = app.cells, app.rows
        app.theme = "textual-light"
        await pilot.pause()
        assert app.rows == rows
        assert all(a[1] != b[1] for a, b in zip(dark, app.cells, strict=True) if a[0] != "▌")


@pytest.mark.parametrize("term", ["xterm-256color", "linux"])
async def test_links_are_hyperlinks_if_the_terminal_supports_them(
    term: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    sent: list[str] = []
    app = TranscriptApp()
    feed = app._display

    def display(screen: Screen[object], renderable: RenderableType | None) -> None:
        if isinstance(renderable, CompositorUpdate):
            sent.append(renderable.render_segments(app.console))
        feed(screen, renderable)

    monkeypatch.setattr(app, "_display", display)
    async with app.run_test(size=(50, 10)) as pilot:
        app.transcript.show([reply("See [the page](https://e.com/a) and <https://e.com/b>.")])
        await pilot.pause()
        found = re.findall(r"\x1b]8;[^;]*;([^\x1b]+)\x1b\\(.*?)\x1b]8;;\x1b\\", "".join(sent))
        links = {re.sub(r"\x1b\[[\d;]*m", "", text).strip(): to for to, text in found}
        if term == "linux":
            assert not links
        else:
            assert links["the page"] == links["(https://e.com/a)"] == "https://e.com/a"
            assert links["https://e.com/b"] == "https://e.com/b"
        assert "  See the page (https://e.com/a) and" in app.rows
