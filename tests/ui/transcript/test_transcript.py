"""The transcript: following the end, scrolling, resizing, selecting text."""

from __future__ import annotations

import pytest
from textual.events import MouseScrollUp
from textual.geometry import Offset
from textual.selection import Selection

import glmtui.ui.transcript.entry
from glmtui.chat import Message
from glmtui.ui.transcript.layout import TranscriptLayout
from glmtui.ui.transcript.transcript import Transcript
from support.transcript_app import REPLY, TranscriptApp, numbered, reply


async def test_the_end_is_followed_until_the_user_looks_back() -> None:
    app = TranscriptApp()
    async with app.run_test(size=(40, 10)) as pilot:
        transcript = app.transcript
        transcript.begin(reply("", finish_reason=None))
        for n in range(15):
            app.time += 0.2
            transcript.append(numbered(n, n + 1))
            await pilot.pause()
            assert f"  line {n}" in app.rows

        await pilot.press("tab", "pageup")
        assert not transcript.following
        await pilot.pause()
        seen = app.text
        transcript.append(numbered(15, 25))
        await pilot.pause()
        assert app.text == seen
        assert transcript.lines_below == 20
        assert app.following[-1] == (False, 20)

        await pilot.press("end")
        assert transcript.following
        assert transcript.lines_below == 0
        assert app.following[-1] == (True, 0)
        assert "  line 24" in app.rows


async def test_the_mouse_wheel_stops_following_a_fast_stream() -> None:
    app = TranscriptApp()
    async with app.run_test(size=(40, 10)) as pilot:
        transcript = app.transcript
        transcript.show([reply(numbered(0, 50))])
        transcript.begin(reply("", id="s", finish_reason=None))
        await pilot.pause()
        transcript.post_message(MouseScrollUp(transcript, 5, 5, 0, 0, 0, False, False, False))
        await pilot.pause()
        for n in range(20):
            transcript.append(numbered(n, n + 1))
        await pilot.pause()
        assert not transcript.following
        top = transcript.scroll_offset.y
        transcript.append("more\n")
        await pilot.pause()
        assert transcript.scroll_offset.y == top


async def test_lines_seen_while_scrolling_down_are_no_longer_new() -> None:
    app = TranscriptApp()
    async with app.run_test(size=(40, 10)) as pilot:
        transcript = app.transcript
        transcript.show([reply(numbered(0, 20))])
        transcript.begin(reply("", id="s", finish_reason=None))
        transcript.scroll_to(y=5)
        transcript.append(numbered(0, 10))
        below = transcript.lines_below
        transcript.scroll_to(y=transcript.max_scroll_y - 3)
        await pilot.pause()
        assert 0 < transcript.lines_below == 3 < below


async def test_sending_returns_to_the_end() -> None:
    app = TranscriptApp()
    async with app.run_test(size=(40, 10)) as pilot:
        transcript = app.transcript
        transcript.show([reply(numbered(0, 40))])
        transcript.scroll_home()
        assert not transcript.following
        transcript.begin(Message("user", "the question", id="q"))
        transcript.finish(Message("user", "the question", id="q"))
        await pilot.pause()
        assert transcript.following
        assert "▌ the question" in app.rows


async def test_a_resize_keeps_the_text_in_view() -> None:
    app = TranscriptApp()
    async with app.run_test(size=(80, 12)) as pilot:
        transcript = app.transcript
        words = " ".join(f"word{n}" for n in range(600))
        transcript.show([reply(words, id="a"), reply("# here it is\n\n" + words, id="b")])
        await pilot.pause()
        transcript.scroll_to(y=next(y for y in range(200) if "here it is" in row(transcript, y)))
        for width in (40, 100, 61):
            await pilot.resize_terminal(width, 12)
            await pilot.pause()
            assert app.rows[0].strip() == "here it is"
            assert not transcript.following
        transcript.scroll_end()
        await pilot.pause()
        await pilot.resize_terminal(50, 8)
        await pilot.pause()
        assert any("word599" in row for row in app.rows)


def row(transcript: Transcript, y: int) -> str:
    return transcript.render_line(y - transcript.scroll_offset.y).text


async def test_opening_lays_out_the_end_first_and_the_rest_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rendered: list[str] = []
    render = glmtui.ui.transcript.entry.render
    monkeypatch.setattr(
        glmtui.ui.transcript.entry,
        "render",
        lambda text, width: rendered.append(text) or render(text, width),
    )
    app = TranscriptApp()
    async with app.run_test(size=(80, 24)) as pilot:
        messages = [reply(f"{REPLY}number {n}", id=f"m{n}") for n in range(300)]
        app.transcript.show(messages)
        assert len(rendered) < 10
        await pilot.pause()
        assert "  number 299" in app.rows
        app.transcript.show([*messages, reply("one more", id="n")])
        app.transcript.scroll_home()
        await pilot.pause()
        assert len(rendered) == 301
        assert app.rows[1] == "  Section about 显存"


async def test_laying_out_older_messages_moves_nothing_in_view() -> None:
    messages = [reply(f"{REPLY}number {n}", id=f"m{n}") for n in range(100)]
    whole = TranscriptLayout()
    whole.show(messages, {})
    whole.lay_out(77, at_least=10**6)
    app = TranscriptApp()
    app.tick = 1.0  # no time for older messages
    async with app.run_test(size=(80, 24)) as pilot:
        app.transcript.show(messages)
        app.transcript.scroll_to(y=app.transcript.max_scroll_y - 5)
        await pilot.pause()
        seen, top = app.text, app.transcript.scroll_offset.y
        app.tick = 0.005
        while app.transcript.virtual_size.height < whole.total:
            await pilot.pause(0.01)
        app.forget_terminal()
        app.transcript.screen.refresh()
        await pilot.pause()
        assert app.text == seen
        assert app.transcript.scroll_offset.y > top


async def test_selected_text_is_copied_with_lines_joined() -> None:
    app = TranscriptApp()
    async with app.run_test(size=(30, 20)) as pilot:
        text = "A line that is long enough to be broken\n\n```python\nx = 1\ny = 2\n```"
        app.transcript.show([Message("user", "Ask\nme", id="q"), reply(text)])
        await pilot.pause()
        await pilot.mouse_down(app.transcript, offset=(2, 0))
        await pilot.hover(app.transcript, offset=(4, 1))
        await pilot.mouse_up(app.transcript, offset=(4, 1))
        assert app.screen.get_selected_text() == "Ask\nme"

        first = app.rows.index("  smollm2") + 1
        last = next(y for y, shown in enumerate(app.rows) if "y = 2" in shown)
        app.screen.selections = {
            app.transcript: Selection(Offset(2, first), Offset(6, last)),
        }
        copied = "line that is long enough to be broken\n\nx = 1\ny = 2"
        assert app.screen.get_selected_text() == copied


async def test_a_double_click_selects_the_message() -> None:
    app = TranscriptApp()
    async with app.run_test(size=(40, 20)) as pilot:
        app.transcript.show([Message("user", "Ask me", id="q"), reply("One\n\ntwo"), reply("3")])
        await pilot.pause()
        await pilot.click(app.transcript, offset=(4, 3), times=2)
        assert app.screen.get_selected_text() == "smollm2\nOne\n\ntwo"
