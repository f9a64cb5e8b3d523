"""Session: one path for every reply, on disk before the model runs, late events unheard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from glmtui.chat import Conversation, Message, SamplingParams
from glmtui.engine.api import Delta
from glmtui.engine.model_info import LoadOptions
from glmtui.errors import EngineError, ModelError
from glmtui.store import Store
from glmtui.ui.session.reply_state import places
from support.session_driver import TARGET, Desk


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.engine.close(5)
    desk.saver.close(5)


def test_a_question_and_its_reply(desk: Desk) -> None:
    reply = desk.ask("Who are you?")
    assert (reply.content, reply.finish_reason, reply.model) == ("Hello there.", "stop", "fake")
    assert reply.stats is not None
    assert desk.page.texts == ["Who are you?", "Hello there."]
    assert desk.on_disk() == replace(desk.session.conversation, model="fake")
    asked = desk.engine.requests[0]
    assert [m.role for m in asked.messages] == ["system", "user"]


def test_the_question_is_on_disk_before_the_engine_hears_of_it(desk: Desk) -> None:
    submit, found = desk.engine.submit, []

    def look_first(request: object) -> None:
        found.append(Store(desk.disk.folder).load(desk.session.conversation.id).path[-1].content)
        submit(request)  # type: ignore[arg-type]

    desk.engine.submit = look_first  # type: ignore[method-assign]
    desk.ask("Are you there?")
    assert found == ["Are you there?"]


def test_parameters_go_with_the_request_and_into_the_file(desk: Desk) -> None:
    params = SamplingParams(temperature=0.1, seed=3)
    desk.session.change(params=params, system="You are a poet.")
    desk.ask("Go")
    assert desk.engine.requests[0].params == params
    assert desk.engine.requests[0].messages[0].content == "You are a poet."
    assert (desk.on_disk().params, desk.on_disk().system) == (params, "You are a poet.")


def test_a_stopped_reply_keeps_what_there_is(desk: Desk) -> None:
    desk.engine.held_after = 2
    desk.session.ask("Go")
    desk.until(lambda: desk.page.texts[-1] == "Hello there")
    desk.session.stop()
    reply = desk.reply()
    assert (reply.content, reply.finish_reason) == ("Hello there", "cancelled")
    assert desk.session.stopped
    assert desk.on_disk().path[-1].content == "Hello there"


def test_a_reply_stopped_before_its_first_word_leaves_no_trace(desk: Desk) -> None:
    desk.engine.held_after = 0
    desk.session.ask("Go")
    desk.until(lambda: desk.session.run is not None and desk.session.run.working)
    desk.session.stop()
    assert desk.reply().role == "user"
    assert desk.page.texts == ["Go"]


def test_stopping_twice_does_not_wait_for_the_engine(desk: Desk) -> None:
    desk.engine.cancel = lambda request_id: None  # type: ignore[method-assign]
    desk.engine.held_after = 1
    desk.session.ask("Go")
    desk.until(lambda: desk.page.texts[-1] == "Hello")
    desk.session.stop()
    assert desk.session.run is not None
    desk.session.stop()
    assert desk.session.run is None
    desk.engine.hold.set()  # its late Finished falls on the floor
    assert desk.ask("Again").content == "Hello there."
    assert [m.content for m in desk.session.conversation.path] == [
        "Go",
        "Hello",
        "Again",
        "Hello there.",
    ]


def test_regenerate_keeps_the_earlier_reply_as_an_alternative(desk: Desk) -> None:
    first = desk.ask("Go")
    desk.engine.pieces = ["Other"]
    assert desk.session.regenerate()
    second = desk.reply()
    assert second.content == "Other"
    assert desk.session.conversation.siblings(second.id) == (first, second)
    assert places(desk.session.conversation) == {first.id: (1, 2), second.id: (2, 2)}
    assert desk.engine.requests[1].messages == desk.engine.requests[0].messages


def test_continue_goes_on_in_the_same_message(desk: Desk) -> None:
    desk.engine.held_after = 2
    desk.session.ask("Go")
    desk.until(lambda: desk.page.texts[-1] == "Hello there")
    desk.session.stop()
    desk.reply()
    desk.engine.held_after, desk.engine.pieces = None, [", friend."]
    assert desk.session.go_on()
    reply = desk.reply()
    assert (reply.content, reply.finish_reason) == ("Hello there, friend.", "stop")
    assert desk.engine.requests[1].messages[-1].content == "Hello there"
    assert desk.page.texts == ["Go", "Hello there, friend."]


def test_an_edited_question_opens_a_branch(desk: Desk) -> None:
    desk.ask("Go")
    question = desk.session.conversation.path[0]
    desk.session.ask("Stay", question.id)
    desk.reply()
    assert [m.content for m in desk.session.conversation.path] == ["Stay", "Hello there."]
    assert len(desk.session.conversation.messages) == 4
    assert desk.page.texts == ["Stay", "Hello there."]
    assert desk.page.places[desk.session.conversation.path[0].id] == (2, 2)


def test_there_is_nothing_to_regenerate_or_continue_at_first(desk: Desk) -> None:
    assert not desk.session.regenerate()
    assert not desk.session.go_on()
    assert desk.engine.requests == []


def test_a_failed_reply_keeps_its_words_and_says_why(desk: Desk) -> None:
    desk.engine.fail = EngineError("The GPU is gone.", "Look for it.")
    reply = desk.ask("Go")
    assert (reply.content, reply.finish_reason) == ("Hello there.", "error")
    assert reply.error == "The GPU is gone.\nLook for it."
    assert desk.session.reply_error is desk.engine.fail
    desk.engine.fail = None
    assert desk.ask("Again").finish_reason == "stop"
    assert desk.session.reply_error is None


def test_a_reply_that_failed_before_its_first_word_is_not_told_to_the_model(desk: Desk) -> None:
    desk.engine.pieces, desk.engine.fail = [], EngineError("No.")
    desk.ask("One")
    desk.engine.pieces, desk.engine.fail = ["Yes"], None
    desk.ask("Two")
    assert [m.content for m in desk.engine.requests[1].messages] == ["Be brief.", "One", "Two"]


def test_what_is_asked_while_the_model_loads_is_answered_when_it_can_be(tmp_path: Path) -> None:
    desk = Desk(tmp_path, loaded=False)
    desk.engine.load_gate.clear()
    desk.session.load(TARGET, "fake", LoadOptions())
    desk.session.ask("Go")
    desk.until(lambda: desk.session.run is not None and desk.session.run.on_disk)
    assert desk.session.loading is not None
    desk.engine.load_gate.set()
    assert desk.reply().content == "Hello there."


def test_a_question_without_any_model_waits_for_one(tmp_path: Path) -> None:
    desk = Desk(tmp_path, loaded=False)
    desk.session.ask("Go")
    desk.until(lambda: len(desk.saves) == 1)
    assert desk.engine.requests == []
    desk.load()
    assert desk.reply().content == "Hello there."


def test_a_question_outlives_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    desk = Desk(tmp_path, loaded=False)
    desk.engine.load_gate.clear()
    desk.engine.fail_load = ModelError("It is broken.")
    desk.session.load(TARGET, "broken", LoadOptions())
    desk.session.ask("Go")
    desk.until(lambda: desk.session.run is not None and desk.session.run.on_disk)
    desk.engine.load_gate.set()
    desk.until(lambda: desk.session.load_error is not None)
    desk.engine.fail_load = None
    desk.load()
    assert desk.reply().content == "Hello there."


def test_another_conversation_cuts_the_reply_and_keeps_it_in_its_own(desk: Desk) -> None:
    desk.engine.held_after = 1
    desk.session.ask("Go")
    desk.until(lambda: desk.page.texts[-1] == "Hello")
    left = desk.session.conversation.id
    desk.session.open(Conversation.new())
    desk.until(lambda: not desk.saver._waiting)
    kept = Store(desk.disk.folder).load(left).path[-1]
    assert (kept.content, kept.finish_reason) == ("Hello", "cancelled")
    assert desk.page.texts == []
    desk.engine.held_after = None
    assert desk.ask("Elsewhere").content == "Hello there."
    assert len(desk.session.conversation.messages) == 2


def test_a_reply_cut_by_another_model_is_kept(desk: Desk) -> None:
    desk.engine.held_after = 1
    desk.session.ask("Go")
    desk.until(lambda: desk.page.texts[-1] == "Hello")
    desk.load()
    assert desk.session.conversation.path[-1].finish_reason == "cancelled"


def test_pieces_of_another_request_are_not_shown(desk: Desk) -> None:
    desk.engine.held_after = 1
    desk.session.ask("Go")
    desk.until(lambda: desk.page.texts[-1] == "Hello")
    desk.session.hear(Delta(99, "late"))
    desk.session.drain()
    assert desk.page.texts[-1] == "Hello"


def test_a_partial_reply_is_saved_about_once_a_second(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    now = [0.0]
    desk.session._clock = lambda: now[0]
    desk.engine.held_after = 2
    desk.session.ask("Go")
    desk.until(lambda: desk.page.texts[-1] == "Hello there")
    assert desk.on_disk().path[-1].role == "user"
    now[0] = 1.0
    desk.session.drain()
    partial = desk.on_disk().path[-1]
    assert (partial.content, partial.finish_reason) == ("Hello there", None)
    saves = len(desk.saves)
    now[0] = 3.0
    desk.session.drain()
    assert len(desk.saves) == saves  # nothing new to save
    desk.session.close()


def test_control_characters_of_the_model_are_made_visible(desk: Desk) -> None:
    desk.engine.pieces = ["a\x1b]0;t\x07b\r", "\nc"]
    assert desk.ask("Go").content == "a␛]0;t␇b\nc"
    assert desk.page.texts[-1] == "a␛]0;t␇b\nc"


def test_control_characters_of_a_file_are_made_visible(desk: Desk) -> None:
    hostile = Conversation.new(system="\x1b[2J").add(Message("user", "\x1b[31mred\x9b"))
    desk.session.open(replace(hostile, title="a\x1b\nb"))
    assert desk.page.texts == ["␛[31mred�"]
    assert desk.session.conversation.title == "a␛ b"
    assert desk.session.conversation.system == "␛[2J"


def test_turns_that_did_not_fit_are_counted(desk: Desk) -> None:
    desk.engine.dropped_turns = 4
    desk.ask("Go")
    assert desk.session.dropped_turns == 4
    assert desk.page.note == "4 oldest messages left out of the prompt"
    desk.engine.dropped_turns = 1
    desk.ask("Go on")
    assert desk.page.note == "the oldest message left out of the prompt"
    desk.engine.dropped_turns = 0
    desk.ask("More")
    assert desk.page.note == ""
    desk.engine.dropped_turns = 4
    desk.ask("Still more")
    desk.session.open(Conversation.new())
    assert desk.session.dropped_turns == 0


def test_a_reply_stopped_at_its_call_keeps_the_remark(desk: Desk) -> None:
    remark = Message("assistant", "Let me\x07 look.")
    desk.engine.said = (remark, Message("assistant", "", metadata="weather"))
    desk.engine.held_after = 1
    desk.session.ask("Go")
    desk.until(lambda: desk.page.texts[-1] == "Hello")
    desk.session.stop()
    desk.reply()
    assert [(m.content, m.metadata) for m in desk.on_disk().path[1:]] == [
        ("Let me␇ look.", ""),
        ("", "weather"),
    ]
    assert desk.page.texts == ["Go", "Let me␇ look.", ""]
    desk.ask("And?")  # a call without arguments is told to the model all the same
    assert desk.engine.requests[1].messages[-2].metadata == "weather"


def test_what_the_engine_has_not_begun_goes_to_the_next_model(desk: Desk) -> None:
    desk.engine.load_gate.clear()
    desk.engine.load(TARGET, LoadOptions())  # the engine is busy, and the session does not know
    desk.session.ask("Go")
    desk.until(lambda: len(desk.engine.requests) == 1)
    desk.session.load(TARGET, "fake", LoadOptions())
    desk.engine.load_gate.set()
    assert desk.reply().content == "Hello there."
    first, second = desk.engine.requests
    assert first.id in desk.engine.cancelled
    assert second == replace(first, id=second.id)


def test_a_conversation_without_a_question_has_nothing_to_answer_again(desk: Desk) -> None:
    desk.session.open(Conversation.new().add(Message("assistant", "Hello!")))
    assert not desk.session.regenerate()
    assert desk.engine.requests == []
