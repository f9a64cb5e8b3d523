"""The prompt: typing, pasting, completion, and the position of the terminal cursor."""

from __future__ import annotations

import time

import pytest
from textual import events
from textual.pilot import Pilot

from glmtui.commands import command_parser
from support.prompt_app import running_prompt


async def paste(pilot: Pilot[None], text: str) -> None:
    pilot.app.post_message(events.Paste(text))
    await pilot.pause()


async def test_enter_sends_and_the_prompt_is_empty() -> None:
    async with running_prompt() as (app, prompt, pilot):
        await pilot.press(*"hi", "enter")
        assert app.sent == ["hi"]
        assert prompt.text == ""


async def test_the_placeholder_is_not_parsed_as_markup() -> None:
    async with running_prompt() as (app, _, _):
        shown = "\n".join(strip.text for strip in app.screen._compositor.render_strips())
        assert "Ask [bold]anything[/]" in shown


async def test_a_paste_of_many_lines_never_sends() -> None:
    async with running_prompt() as (app, prompt, pilot):
        await paste(pilot, "one\r\ntwo\rthree\n")
        assert app.sent == []
        assert prompt.text == "one\ntwo\nthree\n"


async def test_a_paste_is_sanitised() -> None:
    async with running_prompt() as (_, prompt, pilot):
        await paste(pilot, "a\x1b[31mb\x9bc\u202ed")
        assert prompt.text == "a␛[31mb�c�d"


async def test_a_large_paste_is_folded_until_it_is_sent() -> None:
    async with running_prompt() as (app, prompt, pilot):
        text = "def f():\n    return 1\n" * 1_050
        await pilot.press(*"why ")
        await paste(pilot, text)
        assert prompt.text == "why [pasted 2,100 lines #1]"
        await pilot.press("question_mark", "enter")
        assert app.sent == [f"why {text}?"]


async def test_a_marker_is_deleted_as_a_whole() -> None:
    async with running_prompt() as (_, prompt, pilot):
        await paste(pilot, "x" * 100_000)
        assert prompt.text == "[pasted 100,000 characters #1]"
        await pilot.press("home", "delete")
        assert prompt.text == ""
        await pilot.press("ctrl+z", "end", "!", "left", "backspace")
        assert prompt.text == "!"


async def test_text_that_looks_like_a_marker_is_text() -> None:
    async with running_prompt() as (app, prompt, pilot):
        prompt.set_text("[pasted 2,100 lines #1]")
        await pilot.press("enter")
        assert app.sent == ["[pasted 2,100 lines #1]"]


@pytest.mark.parametrize("text", ["word " * 20_000, "你好世界" * 25_000, "\n" * 100_000])
async def test_a_paste_of_100_kb_costs_what_a_short_one_does(text: str) -> None:
    async with running_prompt() as (_, prompt, pilot):

        async def seconds(pasted: str) -> float:
            began = time.process_time()
            await paste(pilot, pasted)
            await pilot.press("x")
            return time.process_time() - began

        await seconds("warm")
        short, long = [], []
        for _round in range(4):
            short.append(await seconds("short"))
            long.append(await seconds(text))
        assert min(long) < min(short) + 0.5
        assert len(prompt.full_text) > 4 * len(text)


async def test_it_grows_with_its_text_up_to_six_rows() -> None:
    async with running_prompt() as (_, prompt, pilot):
        assert prompt.size.height == 1
        prompt.insert("a\nb\nc")
        await pilot.pause()
        assert prompt.size.height == 3
        prompt.insert("\n" * 20)
        await pilot.pause()
        assert prompt.size.height == 6


async def test_a_slash_lists_commands_and_tab_inserts_one() -> None:
    async with running_prompt() as (app, prompt, pilot):
        await pilot.press("slash", *"sy")
        assert prompt.completion_list.display
        assert prompt.completion_list.selected is not None
        assert prompt.completion_list.selected.text == "/system "
        await pilot.press("tab")
        assert prompt.text == "/system "
        await pilot.pause()
        assert not prompt.completion_list.display
        assert app.sent == []


async def test_enter_sends_a_command_without_arguments() -> None:
    async with running_prompt() as (app, _, pilot):
        await pilot.press("slash", *"ne", "enter")
        assert app.sent == ["/new"]


async def test_enter_inserts_a_command_that_needs_an_argument() -> None:
    async with running_prompt() as (app, prompt, pilot):
        await pilot.press("slash", *"set", "enter")
        assert app.sent == []
        assert prompt.text == "/set "
        await pilot.press(*"seed 1", "enter")
        assert app.sent == ["/set seed 1"]


async def test_arrows_select_a_completion() -> None:
    async with running_prompt() as (_, prompt, pilot):
        await pilot.press("slash")
        offered = prompt.completion_list.completions
        assert len(offered) == len(command_parser.completions("/"))
        await pilot.press("down")
        assert prompt.completion_list.selected == offered[1]
        await pilot.press("up", "up")
        assert prompt.completion_list.selected == offered[-1]


async def test_escape_first_closes_the_completions_and_then_stops() -> None:
    async with running_prompt() as (app, prompt, pilot):
        await pilot.press("slash", "escape")
        assert not prompt.completion_list.display
        assert app.other == []
        await pilot.press("escape")
        assert app.other == ["stop"]


async def test_a_click_on_a_row_chooses_it() -> None:
    async with running_prompt() as (_, prompt, pilot):
        await pilot.press("slash", *"s")
        await pilot.pause()
        second = command_parser.completions("/s")[1]
        await pilot.click(type(prompt.completion_list), offset=(3, 1))
        await pilot.pause()
        assert prompt.text.strip() == f"/{second.slash}"


async def test_keys_that_come_in_a_burst_keep_their_order() -> None:
    async with running_prompt() as (app, prompt, pilot):
        keys = [*"teh", "backspace", "backspace", *"he", "enter", *"nxet", "left", "left", "left"]
        for key in [*keys, "delete", "right", *"x", "home", "enter", "up", "up"]:
            character = key if len(key) == 1 else None
            app.post_message(events.Key(key, character))
        await pilot.pause()
        assert app.sent == ["the", "next"]
        assert prompt.text == "the"
        await pilot.press("down")
        assert prompt.text == "next"


async def test_a_command_typed_in_a_burst_is_that_command() -> None:
    async with running_prompt() as (app, prompt, pilot):
        await pilot.press("slash")  # all commands are offered
        for key in (*"continue", "enter"):
            prompt.post_message(events.Key(key, key if len(key) == 1 else None))
        await pilot.pause()
        assert app.sent == ["/continue"]


async def test_page_keys_are_left_to_the_conversation() -> None:
    async with running_prompt() as (app, _, pilot):
        await pilot.press("pageup")
        assert app.other == ["look"]


@pytest.mark.parametrize(("text", "cells"), [("abc", 3), ("你好", 4), ("e\u0301你", 3)])
async def test_the_terminal_cursor_is_after_the_typed_text(text: str, cells: int) -> None:
    async with running_prompt() as (app, prompt, pilot):
        prompt.insert("first\n" + text)
        await pilot.pause()
        assert app.cursor_position == (1 + cells, 11)
