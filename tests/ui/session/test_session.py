"""Session: one path for every reply; saved before the model runs; late events are ignored."""

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
from support.session_driver import TARGET, SessionDriver


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[SessionDriver]:
    driver = SessionDriver(tmp_path)
    yield driver
    driver.engine.close(5)
    driver.saver.close(5)


def test_a_question_and_its_reply(driver: SessionDriver) -> None:
    reply = driver.ask("Who are you?")
    assert (reply.content, reply.finish_reason, reply.model) == ("Hello there.", "stop", "fake")
    assert reply.stats is not None
    assert driver.view.texts == ["Who are you?", "Hello there."]
    assert driver.on_disk() == replace(driver.session.conversation, model="fake")
    asked = driver.engine.requests[0]
    assert [m.role for m in asked.messages] == ["system", "user"]


def test_the_question_is_on_disk_before_the_engine_hears_of_it(driver: SessionDriver) -> None:
    submit, found = driver.engine.submit, []

    def look_first(request: object) -> None:
        found.append(
            Store(driver.disk.folder).load(driver.session.conversation.id).path[-1].content
        )
        submit(request)  # type: ignore[arg-type]

    driver.engine.submit = look_first  # type: ignore[method-assign]
    driver.ask("Are you there?")
    assert found == ["Are you there?"]


def test_parameters_go_with_the_request_and_into_the_file(driver: SessionDriver) -> None:
    params = SamplingParams(temperature=0.1, seed=3)
    driver.session.update(params=params, system="You are a poet.")
    driver.ask("Go")
    assert driver.engine.requests[0].params == params
    assert driver.engine.requests[0].messages[0].content == "You are a poet."
    assert (driver.on_disk().params, driver.on_disk().system) == (params, "You are a poet.")


def test_a_stopped_reply_keeps_what_there_is(driver: SessionDriver) -> None:
    driver.engine.pause_after = 2
    driver.session.ask("Go")
    driver.wait_until(lambda: driver.view.texts[-1] == "Hello there")
    driver.session.stop()
    reply = driver.reply()
    assert (reply.content, reply.finish_reason) == ("Hello there", "cancelled")
    assert driver.session.was_stopped
    assert driver.on_disk().path[-1].content == "Hello there"


def test_a_reply_stopped_before_its_first_word_leaves_no_trace(driver: SessionDriver) -> None:
    driver.engine.pause_after = 0
    driver.session.ask("Go")
    driver.wait_until(lambda: driver.session.reply is not None and driver.session.reply.started)
    driver.session.stop()
    assert driver.reply().role == "user"
    assert driver.view.texts == ["Go"]


def test_stopping_twice_does_not_wait_for_the_engine(driver: SessionDriver) -> None:
    driver.engine.cancel = lambda request_id: None  # type: ignore[method-assign]
    driver.engine.pause_after = 1
    driver.session.ask("Go")
    driver.wait_until(lambda: driver.view.texts[-1] == "Hello")
    driver.session.stop()
    assert driver.session.reply is not None
    driver.session.stop()
    assert driver.session.reply is None
    driver.engine.resume.set()  # its late Finished falls on the floor
    assert driver.ask("Again").content == "Hello there."
    assert [m.content for m in driver.session.conversation.path] == [
        "Go",
        "Hello",
        "Again",
        "Hello there.",
    ]


def test_regenerate_keeps_the_earlier_reply_as_an_alternative(driver: SessionDriver) -> None:
    first = driver.ask("Go")
    driver.engine.pieces = ["Other"]
    assert driver.session.regenerate()
    second = driver.reply()
    assert second.content == "Other"
    assert driver.session.conversation.siblings(second.id) == (first, second)
    assert places(driver.session.conversation) == {first.id: (1, 2), second.id: (2, 2)}
    assert driver.engine.requests[1].messages == driver.engine.requests[0].messages


def test_continue_goes_on_in_the_same_message(driver: SessionDriver) -> None:
    driver.engine.pause_after = 2
    driver.session.ask("Go")
    driver.wait_until(lambda: driver.view.texts[-1] == "Hello there")
    driver.session.stop()
    driver.reply()
    driver.engine.pause_after, driver.engine.pieces = None, [", friend."]
    assert driver.session.continue_reply()
    reply = driver.reply()
    assert (reply.content, reply.finish_reason) == ("Hello there, friend.", "stop")
    assert driver.engine.requests[1].messages[-1].content == "Hello there"
    assert driver.view.texts == ["Go", "Hello there, friend."]


def test_an_edited_question_opens_a_branch(driver: SessionDriver) -> None:
    driver.ask("Go")
    question = driver.session.conversation.path[0]
    driver.session.ask("Stay", question.id)
    driver.reply()
    assert [m.content for m in driver.session.conversation.path] == ["Stay", "Hello there."]
    assert len(driver.session.conversation.messages) == 4
    assert driver.view.texts == ["Stay", "Hello there."]
    assert driver.view.places[driver.session.conversation.path[0].id] == (2, 2)


def test_there_is_nothing_to_regenerate_or_continue_at_first(driver: SessionDriver) -> None:
    assert not driver.session.regenerate()
    assert not driver.session.continue_reply()
    assert driver.engine.requests == []


def test_a_failed_reply_keeps_its_words_and_says_why(driver: SessionDriver) -> None:
    driver.engine.reply_error = EngineError("The GPU is gone.", "Look for it.")
    reply = driver.ask("Go")
    assert (reply.content, reply.finish_reason) == ("Hello there.", "error")
    assert reply.error == "The GPU is gone.\nLook for it."
    assert driver.session.reply_error is driver.engine.reply_error
    driver.engine.reply_error = None
    assert driver.ask("Again").finish_reason == "stop"
    assert driver.session.reply_error is None


def test_a_reply_that_failed_before_its_first_word_is_not_told_to_the_model(
    driver: SessionDriver,
) -> None:
    driver.engine.pieces, driver.engine.reply_error = [], EngineError("No.")
    driver.ask("One")
    driver.engine.pieces, driver.engine.reply_error = ["Yes"], None
    driver.ask("Two")
    assert [m.content for m in driver.engine.requests[1].messages] == ["Be brief.", "One", "Two"]


def test_what_is_asked_while_the_model_loads_is_answered_when_it_can_be(tmp_path: Path) -> None:
    driver = SessionDriver(tmp_path, loaded=False)
    driver.engine.load_gate.clear()
    driver.session.load(TARGET, "fake", LoadOptions())
    driver.session.ask("Go")
    driver.wait_until(
        lambda: driver.session.reply is not None and driver.session.reply.question_saved
    )
    assert driver.session.loading is not None
    driver.engine.load_gate.set()
    assert driver.reply().content == "Hello there."


def test_a_question_without_any_model_waits_for_one(tmp_path: Path) -> None:
    driver = SessionDriver(tmp_path, loaded=False)
    driver.session.ask("Go")
    driver.wait_until(lambda: len(driver.saves) == 1)
    assert driver.engine.requests == []
    driver.load()
    assert driver.reply().content == "Hello there."


def test_a_question_outlives_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    driver = SessionDriver(tmp_path, loaded=False)
    driver.engine.load_gate.clear()
    driver.engine.load_error = ModelError("It is broken.")
    driver.session.load(TARGET, "broken", LoadOptions())
    driver.session.ask("Go")
    driver.wait_until(
        lambda: driver.session.reply is not None and driver.session.reply.question_saved
    )
    driver.engine.load_gate.set()
    driver.wait_until(lambda: driver.session.load_error is not None)
    driver.engine.load_error = None
    driver.load()
    assert driver.reply().content == "Hello there."


def test_another_conversation_cuts_the_reply_and_keeps_it_in_its_own(driver: SessionDriver) -> None:
    driver.engine.pause_after = 1
    driver.session.ask("Go")
    driver.wait_until(lambda: driver.view.texts[-1] == "Hello")
    left = driver.session.conversation.id
    driver.session.open(Conversation.new())
    driver.wait_until(lambda: not driver.saver._waiting)
    kept = Store(driver.disk.folder).load(left).path[-1]
    assert (kept.content, kept.finish_reason) == ("Hello", "cancelled")
    assert driver.view.texts == []
    driver.engine.pause_after = None
    assert driver.ask("Elsewhere").content == "Hello there."
    assert len(driver.session.conversation.messages) == 2


def test_a_reply_cut_by_another_model_is_kept(driver: SessionDriver) -> None:
    driver.engine.pause_after = 1
    driver.session.ask("Go")
    driver.wait_until(lambda: driver.view.texts[-1] == "Hello")
    driver.load()
    assert driver.session.conversation.path[-1].finish_reason == "cancelled"


def test_pieces_of_another_request_are_not_shown(driver: SessionDriver) -> None:
    driver.engine.pause_after = 1
    driver.session.ask("Go")
    driver.wait_until(lambda: driver.view.texts[-1] == "Hello")
    driver.session.on_event(Delta(99, "late"))
    driver.session.drain()
    assert driver.view.texts[-1] == "Hello"


def test_a_partial_reply_is_saved_about_once_a_second(tmp_path: Path) -> None:
    driver = SessionDriver(tmp_path)
    now = [0.0]
    driver.session._clock = lambda: now[0]
    driver.engine.pause_after = 2
    driver.session.ask("Go")
    driver.wait_until(lambda: driver.view.texts[-1] == "Hello there")
    assert driver.on_disk().path[-1].role == "user"
    now[0] = 1.0
    driver.session.drain()
    partial = driver.on_disk().path[-1]
    assert (partial.content, partial.finish_reason) == ("Hello there", None)
    saves = len(driver.saves)
    now[0] = 3.0
    driver.session.drain()
    assert len(driver.saves) == saves  # nothing new to save
    driver.session.close()


def test_control_characters_of_the_model_are_sanitized_message(driver: SessionDriver) -> None:
    driver.engine.pieces = ["a\x1b]0;t\x07b\r", "\nc"]
    assert driver.ask("Go").content == "a␛]0;t␇b\nc"
    assert driver.view.texts[-1] == "a␛]0;t␇b\nc"


def test_control_characters_of_a_file_are_sanitized_message(driver: SessionDriver) -> None:
    hostile = Conversation.new(system="\x1b[2J").add(Message("user", "\x1b[31mred\x9b"))
    driver.session.open(replace(hostile, title="a\x1b\nb"))
    assert driver.view.texts == ["␛[31mred�"]
    assert driver.session.conversation.title == "a␛ b"
    assert driver.session.conversation.system == "␛[2J"


def test_turns_that_did_not_fit_are_counted(driver: SessionDriver) -> None:
    driver.engine.dropped_turns = 4
    driver.ask("Go")
    assert driver.session.dropped_turns == 4
    assert driver.view.note == "4 oldest messages left out of the prompt"
    driver.engine.dropped_turns = 1
    driver.ask("Go on")
    assert driver.view.note == "the oldest message left out of the prompt"
    driver.engine.dropped_turns = 0
    driver.ask("More")
    assert driver.view.note == ""
    driver.engine.dropped_turns = 4
    driver.ask("Still more")
    driver.session.open(Conversation.new())
    assert driver.session.dropped_turns == 0


def test_a_reply_stopped_at_its_call_keeps_the_remark(driver: SessionDriver) -> None:
    remark = Message("assistant", "Let me\x07 look.")
    driver.engine.messages = (remark, Message("assistant", "", metadata="weather"))
    driver.engine.pause_after = 1
    driver.session.ask("Go")
    driver.wait_until(lambda: driver.view.texts[-1] == "Hello")
    driver.session.stop()
    driver.reply()
    assert [(m.content, m.metadata) for m in driver.on_disk().path[1:]] == [
        ("Let me␇ look.", ""),
        ("", "weather"),
    ]
    assert driver.view.texts == ["Go", "Let me␇ look.", ""]
    driver.ask("And?")  # a call without arguments is told to the model all the same
    assert driver.engine.requests[1].messages[-2].metadata == "weather"


def test_what_the_engine_has_not_begun_goes_to_the_next_model(driver: SessionDriver) -> None:
    driver.engine.load_gate.clear()
    driver.engine.load(TARGET, LoadOptions())  # the engine is busy, and the session does not know
    driver.session.ask("Go")
    driver.wait_until(lambda: len(driver.engine.requests) == 1)
    driver.session.load(TARGET, "fake", LoadOptions())
    driver.engine.load_gate.set()
    assert driver.reply().content == "Hello there."
    first, second = driver.engine.requests
    assert first.id in driver.engine.cancelled
    assert second == replace(first, id=second.id)


def test_a_conversation_without_a_question_has_nothing_to_answer_again(
    driver: SessionDriver,
) -> None:
    driver.session.open(Conversation.new().add(Message("assistant", "Hello!")))
    assert not driver.session.regenerate()
    assert driver.engine.requests == []
