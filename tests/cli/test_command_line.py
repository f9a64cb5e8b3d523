"""The commands other than ``ask``, within this process."""

import subprocess
import sys
import types

import pytest
from rich.cells import cell_len

from glmtui.chat import Conversation, Message, SamplingParams
from glmtui.cli import command_line
from glmtui.config import Settings
from glmtui.config.example import example_toml
from glmtui.engine.catalog.registry import MODELS
from glmtui.engine.model_info import ModelInfo
from glmtui.engine.progress import Progress
from glmtui.errors import DownloadError
from glmtui.language import set_language
from glmtui.store import Store, loads


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """No settings, no models, no conversations, and 80 columns."""
    for name in ("DATA", "CONFIG", "CACHE", "STATE"):
        monkeypatch.setenv(f"GLMTUI_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


@pytest.fixture
def saved(place):
    """Two conversations on disk, the Chinese one newer."""
    store = Store(place / "data" / "conversations")
    first = Conversation.new(model="smollm2").add(Message("user", "Why is the sky blue?"))
    second = Conversation.new(model="THUDM/chatglm3-6b").add(
        Message("user", "天空为什么是蓝色的？" * 9)
    )
    second = second.add(Message("assistant", "因为 \x1b[31m散射", finish_reason="stop"))
    for conversation in (first, second):
        store.save(conversation)
    store.close()
    return first, second


# ---- languages


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["export", "nothere"], "没有编号为 'nothere' 的对话"),
        (["pull", "no-such-model"], "'no-such-model' 不是已知的模型"),
        (["verify", "http://localhost:1/v1"], "它的文件不在本机"),
        (["-s", "temperature=9", "list"], "sampling.temperature = 9.0 无效，应为"),
    ],
)
def test_what_goes_wrong_is_said_in_the_language_asked_for(argv, said, capsys, monkeypatch):
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert command_line.main(argv) in (1, 2)
    assert said in capsys.readouterr().err
    monkeypatch.setenv("LANG", "C")
    monkeypatch.setenv("GLMTUI_UI_LANGUAGE", "zh")
    if argv[0] != "-s":  # wrong arguments are found before the settings are read
        command_line.main(argv)
        assert said in capsys.readouterr().err
    set_language("en")


# ---- arguments


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["-s", "temperature"], "'temperature' has no =; write it as temperature=0.7"),
        (["-s", "temperature=9"], "temperature must be from 0 to 2, not 9"),
        (["-s", "temprature=1"], "Did you mean sampling.temperature?"),
        (["ask", "-s", "load.dtype=flot16", "hi"], 'Did you mean "float16"?'),
        (["-m", " ", "list"], 'model must be a model name, not ""'),
        (["--open", "x", "--continue"], "not allowed with argument"),
        (["--continue", "list"], "--continue and --open are for the app, not for list"),
        (["--config", "/nowhere/x.toml", "list"], "there is no file /nowhere/x.toml"),
        (["export"], "required: ID"),
    ],
)
def test_a_command_line_that_means_nothing(capsys, argv, said):
    assert command_line.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err


def test_help_and_version(capsys):
    assert command_line.main(["--help"]) == 0
    assert command_line.main(["--version"]) == 0
    assert "glmtui 0." in capsys.readouterr().out


# ---- the app


@pytest.fixture
def app(monkeypatch):
    """A terminal, and an app that only notes how it was opened."""
    opened = []

    def run(settings, problems, *, open_conversation=None, model_asked=False):
        opened.append((settings, problems, open_conversation, model_asked))
        return 7

    monkeypatch.setitem(sys.modules, "glmtui.ui.launch", types.SimpleNamespace(run=run))
    monkeypatch.setattr(command_line, "_is_terminal", lambda stream: True)
    return opened


def test_bare_opens_the_app_and_returns_what_it_returns(app):
    assert command_line.main([]) == 7
    assert app == [(Settings(), [], None, False)]


def test_what_the_app_is_opened_with(app):
    assert command_line.main(["-m", "THUDM/chatglm3-6b", "-s", "seed=5", "--open", "ab12"]) == 7
    assert command_line.main(["--continue"]) == 7
    assert app[0] == (Settings(model="THUDM/chatglm3-6b", seed=5), [], "ab12", True)
    assert app[1][2:] == ("last", False)


def test_bad_settings_go_to_the_app_and_do_not_stop_it(app, place, capsys):
    file = place / "broken.toml"
    file.write_text("[sampling\n")
    assert command_line.main(["--config", str(file)]) == 7
    assert "line 1: this is not TOML" in app[0][1][0].message
    assert capsys.readouterr().err == ""


# ---- list, export, import


def test_list_of_nothing_says_where_it_looked(capsys, place):
    assert command_line.main(["list"]) == 0
    assert str(place / "data" / "conversations") in capsys.readouterr().out


def test_list_fits_80_columns_newest_first(saved, capsys):
    first, second = saved
    assert command_line.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ID", second.id, first.id]
    assert all(cell_len(line) <= 80 for line in lines)
    assert "天空" in lines[1]
    assert lines[1].endswith("…")
    assert "Why is the sky blue?" in lines[2]


def test_list_names_files_it_set_aside_and_shows_the_rest(saved, capsys, place):
    damaged = place / "data" / "conversations" / "2026-01-01-x-00000000.toml"
    damaged.write_text("= nothing")
    assert command_line.main(["list"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert "00000000.toml" in err
    assert not damaged.exists()


def test_export_prints_markdown(saved, capsys):
    assert command_line.main(["export", saved[0].id[:6]]) == 0
    assert "Why is the sky blue?" in capsys.readouterr().out


@pytest.mark.parametrize("file_format", ["json", "toml"])
def test_export_can_be_read_back(saved, capsys, place, file_format):
    file = place / f"out.{file_format}"
    assert command_line.main(["export", "last", "-o", str(file)]) == 0
    assert capsys.readouterr().out == ""
    assert command_line.main(["export", "last", "--format", file_format]) == 0
    assert capsys.readouterr().out == file.read_text("utf-8")
    assert loads(file.read_text("utf-8"), file_format).path[0].content.startswith("天空")


def test_export_format_wins_over_the_files_ending(saved, place):
    file = place / "out.json"
    assert command_line.main(["export", "last", "--format", "md", "-o", str(file)]) == 0
    assert not file.read_text("utf-8").startswith("{")


def test_export_to_a_place_that_is_none(saved, capsys, place):
    assert command_line.main(["export", "last", "-o", str(place / "no" / "out.md")]) == 1
    assert "out.md: No such file or directory" in capsys.readouterr().err


def test_export_of_an_unknown_conversation(saved, capsys):
    assert command_line.main(["export", "zzzz"]) == 1
    assert "zzzz" in capsys.readouterr().err


def test_export_to_a_terminal_is_harmless(saved, capsys, monkeypatch):
    assert command_line.main(["export", "last"]) == 0
    assert "\x1b" in capsys.readouterr().out
    monkeypatch.setattr(command_line, "_is_terminal", lambda stream: True)
    assert command_line.main(["export", "last"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "␛[31m散射" in out


def test_import_keeps_a_copy_under_its_own_id(saved, capsys, place):
    file = place / "out.json"
    assert command_line.main(["export", saved[1].id, "-o", str(file)]) == 0
    assert command_line.main(["import", str(file)]) == 0
    taken_in = capsys.readouterr().out.split()[-1]
    assert taken_in != saved[1].id
    copy = Store(place / "data" / "conversations").load(taken_in)
    assert [m.content for m in copy.path] == [m.content for m in saved[1].path]


def test_import_writes_the_format_of_the_settings(place, capsys):
    (place / "config").mkdir()
    (place / "config" / "config.toml").write_text("[storage]\nformat = 'json'\n")
    file = place / "messages.json"
    file.write_text('[{"role": "user", "content": "hi"}]')
    assert command_line.main(["import", str(file)]) == 0
    assert len(list((place / "data" / "conversations").glob("*.json"))) == 1


@pytest.mark.parametrize(("content", "said"), [("{", "x.json"), (None, "x.json")])
def test_import_of_something_else(capsys, place, content, said):
    file = place / "x.json"
    if content is not None:
        file.write_text(content)
    assert command_line.main(["import", str(file)]) == 1
    assert said in capsys.readouterr().err


# ---- models, pull


def test_models_fits_80_columns_and_names_all(capsys):
    assert command_line.main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [model.name for model in MODELS]
    assert all(cell_len(line) <= 80 for line in lines)


def test_models_lists_servers_below(capsys, place):
    (place / "config").mkdir()
    long = f"[servers.lab]\nurl = 'http://lab/{'x' * 99}'\n"
    short = "[servers.b]\nurl = 'http://b'\nmodel = 'glm'\n"
    (place / "config" / "config.toml").write_text(long + short)
    assert command_line.main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].split() == ["SERVER", "MODEL", "ADDRESS"]
    assert lines[-2].startswith("lab     (its first)  http://lab/xxx")
    assert lines[-1].split() == ["b", "glm", "http://b"]
    assert all(cell_len(line) <= 80 for line in lines)


def test_pull_shows_where_the_model_is_and_how_to_chat(monkeypatch, capsys, tmp_path):
    asked = []

    def pull(ref, *, endpoint, on_progress):
        asked.append((ref, endpoint))
        on_progress(Progress("downloading", 1, 2))
        return ModelInfo("smollm2", tmp_path, "llama", 8192, 96_654_288, "int4")

    monkeypatch.setitem(sys.modules, "glmtui.engine.pull", types.SimpleNamespace(pull=pull))
    assert command_line.main(["-s", "hub.endpoint=https://hf-mirror.com", "pull", "smollm2"]) == 0
    assert asked == [("smollm2", "https://hf-mirror.com")]
    out, err = capsys.readouterr()
    assert "smollm2 is ready (97 MB)" in out
    assert err == ""


def test_a_failed_pull(monkeypatch, capsys):
    def pull(ref, *, endpoint, on_progress):
        raise DownloadError("the disk is full", "Free some space.")

    monkeypatch.setitem(sys.modules, "glmtui.engine.pull", types.SimpleNamespace(pull=pull))
    assert command_line.main(["pull", "smollm2"]) == 1
    assert capsys.readouterr().err == "glmtui: the disk is full\n  Free some space.\n"


# ---- config


def test_config_without_a_file_shows_where_and_what_could_stand_there(capsys, place):
    assert command_line.main(["config"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"# {place / 'config' / 'config.toml'} is not there yet")
    assert out.endswith(example_toml())


def test_config_prints_the_file_and_what_overrides_it(capsys, place, monkeypatch):
    (place / "config").mkdir()
    (place / "config" / "config.toml").write_text("model = 'a'\n")
    monkeypatch.setenv("GLMTUI_MODEL", "b")
    assert command_line.main(["config"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "# GLMTUI_MODEL in the environment overrides model",
        f"# {place / 'config' / 'config.toml'}",
        "model = 'a'",
    ]


def test_config_with_a_bad_entry_fails(capsys, place):
    file = place / "mine.toml"
    file.write_text("modle = 'a'\n")
    assert command_line.main(["--config", str(file), "config"]) == 1
    out, err = capsys.readouterr()
    assert out == f"# {file}\nmodle = 'a'\n"
    assert err == f'glmtui: {file}, line 1: unknown setting "modle"\n  Did you mean model?\n'


def test_config_that_is_a_folder(capsys, place):
    assert command_line.main(["--config", str(place), "config"]) == 1
    assert f"Could not read {place}: Is a directory" in capsys.readouterr().err


def test_sampling_flags_are_the_parameters(app):
    assert command_line.main(["-s", "do_sample=off", "-s", "max_new_tokens=5"]) == 7
    assert app[0][0].sampling == SamplingParams(do_sample=False, max_new_tokens=5)


def test_what_it_makes_is_not_for_others_to_write(place):
    code = "import os; os.umask(0); from glmtui.cli.command_line import main; main(['--version']); "
    code += f"open({str(place / 'made')!r}, 'w')"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    assert (place / "made").stat().st_mode & 0o777 == 0o664
