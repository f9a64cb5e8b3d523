"""``glmtui ask`` within this process: the request, the output and the exit code."""

import io
import json
import sys

import pytest

from glmtui.chat import Message, SamplingParams
from glmtui.cli import ask
from glmtui.cli.main import main
from glmtui.config import Settings
from glmtui.engine.model_info import LoadOptions, ServerSpec
from glmtui.errors import EngineError, ModelNotFound, ServerError
from support.scripted_model import ScriptedModel, interrupt


class Stdin(io.TextIOWrapper):
    def __init__(self, data: bytes, *, terminal: bool) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Empty folders, and a terminal as stdin."""
    for name in ("DATA", "CONFIG", "CACHE", "STATE"):
        monkeypatch.setenv(f"GLMTUI_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setattr(sys, "stdin", Stdin(b"", terminal=True))
    return tmp_path


@pytest.fixture
def says(monkeypatch):
    """Replaces the loaded model by one that generates these pieces."""

    def put(*pieces) -> ScriptedModel:
        model = ScriptedModel(pieces)
        model.settings = []

        def open_chat(settings, on_progress):
            model.settings.append(settings)
            return model

        monkeypatch.setattr(ask, "open_chat_model", open_chat)
        return model

    return put


def run(*argv: str) -> int:
    return main(["ask", *argv])


# ---- text


def test_text_is_printed_with_one_line_end(says, capsys):
    says("Hel", "lo")
    assert run("hi") == 0
    assert capsys.readouterr() == ("Hello\n", "")


def test_a_line_end_of_the_models_own_is_enough(says, capsys):
    says("Hello", "\n")
    assert run("hi") == 0
    assert capsys.readouterr().out == "Hello\n"


def test_an_empty_reply_prints_nothing(says, capsys):
    says()
    assert run("hi") == 0
    assert capsys.readouterr().out == ""


def test_the_model_is_closed_whatever_happens(says):
    done, failed = says("x"), None
    assert run("hi") == 0
    failed = says(EngineError("broke"))
    assert run("hi") == 1
    assert done.closed
    assert failed.closed


# ---- what is asked


def test_question_system_prompt_and_parameters_reach_the_model(says):
    model = says("x")
    assert (
        run("--system", "Be brief.", "-s", "temperature=0", "-s", "sampling.seed=7", "Why", "so?")
        == 0
    )
    assert model.requests == [
        (
            [Message("system", "Be brief."), Message("user", "Why so?")],
            SamplingParams(temperature=0.0, seed=7),
        )
    ]


def test_without_a_system_prompt_the_models_own_counts(says):
    model = says("x")
    assert run("hi") == 0
    assert model.requests[0][0] == [Message("user", "hi")]


def test_an_empty_system_prompt_is_one(says):
    model = says("x")
    assert run("--system", "", "hi") == 0
    assert model.requests[0][0][0] == Message("system", "")


def test_flags_before_and_after_the_command_both_count(says):
    model = says("x")
    argv = ["-m", "one", "-s", "top_k=1", "-s", "seed=1", "ask", "-s", "top_k=2", "hi"]
    assert main(argv) == 0
    assert (model.settings[0].model, model.settings[0].top_k, model.settings[0].seed) == (
        "one",
        2,
        1,
    )
    assert main(["-m", "one", "ask", "-m", "two", "hi"]) == 0
    assert model.settings[1].model == "two"


def test_a_pipe_stands_below_the_question(says, monkeypatch):
    model = says("x")
    monkeypatch.setattr(sys, "stdin", Stdin("第一行\nsecond\n".encode(), terminal=False))
    assert run("Sum up:") == 0
    assert model.requests[0][0] == [Message("user", "Sum up:\n\n第一行\nsecond")]


@pytest.mark.parametrize(
    ("data", "question"),
    [(b"only this\n", "only this"), (b"\xef\xbb\xbfmarked", "marked")],
)
def test_a_pipe_alone_is_the_question(says, monkeypatch, data, question):
    model = says("x")
    monkeypatch.setattr(sys, "stdin", Stdin(data, terminal=False))
    assert run() == 0
    assert model.requests[0][0][-1].content == question


@pytest.mark.parametrize("words", [[], [""], ["  \n"]])
def test_no_question_is_a_usage_error(says, capsys, words):
    says("x")
    assert run(*words) == 2
    assert "No question was given." in capsys.readouterr().err


def test_bytes_that_are_no_text_do_not_reach_the_model(says):
    model = says("x")
    assert run("caf\udce9") == 2
    assert not model.requests


# ---- JSON


def test_json_is_one_object(says, capsys):
    says("你", "好")
    assert run("--json", "hi") == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "你好" in out
    found = json.loads(out)
    assert found["text"] == "你好"
    assert found["ids"] == [0, 1]
    assert found["finish_reason"] == "stop"
    assert found["model"] == "scripted"
    assert found["stats"]["prompt_tokens"] == 3
    assert found["stats"]["prefill_rate"] == 2.0
    assert found["stats"]["decode_rate"] == 0.5


def test_json_of_a_broken_reply_holds_what_there_was(says, capsys):
    says("par", "tial", ServerError("the line went dead"))
    assert run("--json", "hi") == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["text"], found["finish_reason"]) == ("partial", "error")
    assert found["error"] == "the line went dead"
    assert "the line went dead" in err


def test_json_of_an_interrupted_reply_says_so(says, capsys):
    says("par", interrupt, "never said")
    assert run("--json", "hi") == 130
    found = json.loads(capsys.readouterr().out)
    assert (found["text"], found["finish_reason"]) == ("par", "cancelled")


# ---- what goes wrong


def test_a_failure_keeps_what_was_said(says, capsys):
    says("half a sen", EngineError("out of luck", "Try again."))
    assert run("hi") == 1
    assert capsys.readouterr() == ("half a sen\n", "glmtui: out of luck\n  Try again.\n")


def test_ctrl_c_keeps_what_was_said(says, capsys):
    says("half a sen", interrupt, "never said")
    assert run("hi") == 130
    assert capsys.readouterr() == ("half a sen\n", "")


def test_no_model_at_all_names_the_command_that_gets_one(capsys):
    assert run("hi") == 1
    assert "glmtui pull smollm2" in capsys.readouterr().err


def test_bad_settings_are_named_and_stop_nothing(says, capsys, place):
    says("Hello")
    (place / "config").mkdir()
    (place / "config" / "config.toml").write_text("[sampling]\ntemperature = 9\n")
    assert run("hi") == 0
    out, err = capsys.readouterr()
    assert out == "Hello\n"
    assert "config.toml, line 2: temperature must be from 0 to 2, not 9" in err


def test_errors_cannot_act_on_the_terminal(says, capsys):
    says(EngineError("title \x1b]0;evil\x07", "\x1b[2J"))
    assert run("hi") == 1
    assert "\x1b" not in capsys.readouterr().err


def test_a_bug_is_one_line_and_a_log(says, capsys, place):
    says("Hello", ZeroDivisionError("by zero"))
    assert run("hi") == 1
    err = capsys.readouterr().err
    log = place / "state" / "crash.log"
    assert "Traceback" not in err
    assert "ZeroDivisionError: by zero" in err
    assert str(log) in err
    assert "Traceback" in log.read_text()


def test_a_bug_with_no_place_for_a_log_is_still_one_line(says, capsys, place):
    says(ZeroDivisionError("by zero"))
    (place / "state").write_text("in the way")
    assert run("hi") == 1
    assert "ZeroDivisionError: by zero" in capsys.readouterr().err


# ---- terminals


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_never_gets_control_characters(says, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    says("a\x1b", "[31m\r", "\nb\x9b\u202e\r")
    assert run("hi") == 0
    assert sys.stdout.getvalue() == "a␛[31m\nb\ufffd\ufffd␍\n"


def test_a_pipe_gets_the_text_as_it_is(says, capsys):
    says("a\x1b", "[31m\r", "\nb")
    assert run("hi") == 0
    assert capsys.readouterr().out == "a\x1b[31m\r\nb\n"


def test_strip_cleans_a_pipe_too(says, capsys):
    says("a\x1b", "[31m\r", "\nb")
    assert run("--strip", "hi") == 0
    assert capsys.readouterr().out == "a␛[31m\nb\n"


def test_progress_leaves_no_trace_on_the_terminal(says, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    says("Hello")
    assert run("hi") == 0
    shown = sys.stderr.getvalue()
    assert "reading the prompt: 3/3" in shown
    assert shown.endswith("\r\x1b[K")


# ---- which model


def test_a_server_is_called_and_torch_is_not_needed(monkeypatch):
    from glmtui.engine.remote import ServerModel

    called = []
    monkeypatch.setattr(ServerModel, "connect", lambda spec, _: called.append(spec) or "model")
    monkeypatch.setitem(
        sys.modules, "glmtui.engine.loading.loader", None
    )  # importing it would fail
    assert ask.open_chat_model(Settings(model="http://127.0.0.1:9/v1"), print) == "model"
    assert called == [ServerSpec("http://127.0.0.1:9/v1")]


def test_a_local_model_is_opened_as_the_settings_say(monkeypatch):
    def open_model(target, options, on_progress):
        return target, options, on_progress

    monkeypatch.setattr(ask, "open_model", open_model)
    monkeypatch.setattr(ask.resolver, "resolve", lambda ref, servers, family: f"the {family} {ref}")
    settings = Settings(device="cpu", quant="none", family="llama", slim=False)
    options = LoadOptions(device="cpu", quant=None, family="llama", slim=False)
    expected = ("the llama smollm2", options, print)
    assert ask.open_chat_model(settings, print) == expected


def test_an_unknown_model_is_said_to_be_unknown():
    with pytest.raises(ModelNotFound):
        ask.open_chat_model(Settings(model="smolm2"), print)
