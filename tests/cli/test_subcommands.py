"""The subcommands other than ``ask``, run within this process."""

import subprocess
import sys
import types

import pytest
from rich.cells import cell_len

from glmtui.chat import Conversation, Message, SamplingParams
from glmtui.cli import output, subcommands
from glmtui.cli.main import main
from glmtui.config import Settings
from glmtui.config.example import example_toml
from glmtui.engine.catalog.known_models import MODELS
from glmtui.engine.model_info import ModelInfo
from glmtui.engine.progress import Progress
from glmtui.errors import DownloadError
from glmtui.language import set_language
from glmtui.store import Store, loads


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Empty folders and a width of 80 columns."""
    for name in ("DATA", "CONFIG", "CACHE", "STATE"):
        monkeypatch.setenv(f"GLMTUI_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


@pytest.fixture
def saved(home):
    """Two conversations on disk, the Chinese one newer."""
    store = Store(home / "data" / "conversations")
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
    ("argv", "message"),
    [
        (["export", "nothere"], "没有编号为 'nothere' 的对话"),
        (["pull", "no-such-model"], "'no-such-model' 不是已知的模型"),
        (["verify", "http://localhost:1/v1"], "它的文件不在本机"),
        (["-s", "temperature=9", "list"], "temperature 应为 0 到 2 之间的数，而不是 9"),
    ],
)
def test_errors_are_in_the_language_of_the_settings(argv, message, capsys, monkeypatch):
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert main(argv) in (1, 2)
    assert message in capsys.readouterr().err
    monkeypatch.setenv("LANG", "C")
    monkeypatch.setenv("GLMTUI_UI_LANGUAGE", "zh")
    if argv[0] != "-s":  # wrong arguments are found before the settings are read
        main(argv)
        assert message in capsys.readouterr().err
    set_language("en")


# ---- arguments


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["-s", "temperature"], "'temperature' must have the form NAME=VALUE"),
        (["-s", "temperature=9"], "temperature must be from 0 to 2, not 9"),
        (["-s", "temprature=1"], "Did you mean sampling.temperature?"),
        (["ask", "-s", "load.dtype=flot16", "hi"], 'Did you mean "float16"?'),
        (["-m", " ", "list"], 'model must be a model name, not ""'),
        (["--open", "x", "--continue"], "not allowed with argument"),
        (["--continue", "list"], "--continue and --open cannot be used with the command list"),
        (["--config", "/nowhere/x.toml", "list"], "File not found: /nowhere/x.toml"),
        (["export"], "required: ID"),
    ],
)
def test_an_invalid_command_line(capsys, argv, message):
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


def test_help_and_version(capsys):
    assert main(["--help"]) == 0
    assert main(["--version"]) == 0
    assert "glmtui 0." in capsys.readouterr().out


# ---- the app


@pytest.fixture
def app(monkeypatch):
    """Replaces the app by a function that records its arguments."""
    opened = []

    def run(settings, problems, *, open_conversation=None, model_asked=False):
        opened.append((settings, problems, open_conversation, model_asked))
        return 7

    monkeypatch.setitem(sys.modules, "glmtui.ui.launch", types.SimpleNamespace(run=run))
    for module in (output, subcommands):
        monkeypatch.setattr(module, "is_terminal", lambda stream: True)
    return opened


def test_without_a_command_the_app_is_opened(app):
    assert main([]) == 7
    assert app == [(Settings(), [], None, False)]


def test_the_arguments_reach_the_app(app):
    assert main(["-m", "THUDM/chatglm3-6b", "-s", "seed=5", "--open", "ab12"]) == 7
    assert main(["--continue"]) == 7
    assert app[0] == (Settings(model="THUDM/chatglm3-6b", seed=5), [], "ab12", True)
    assert app[1][2:] == ("last", False)


def test_errors_in_the_settings_are_passed_to_the_app(app, home, capsys):
    file = home / "broken.toml"
    file.write_text("[sampling\n")
    assert main(["--config", str(file)]) == 7
    assert "line 1: invalid TOML" in app[0][1][0].message
    assert capsys.readouterr().err == ""


# ---- list, export, import


def test_an_empty_list_names_the_folder(capsys, home):
    assert main(["list"]) == 0
    assert str(home / "data" / "conversations") in capsys.readouterr().out


def test_list_fits_80_columns_newest_first(saved, capsys):
    first, second = saved
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ID", second.id, first.id]
    assert all(cell_len(line) <= 80 for line in lines)
    assert "天空" in lines[1]
    assert lines[1].endswith("…")
    assert "Why is the sky blue?" in lines[2]


def test_list_reports_damaged_files_and_shows_the_rest(saved, capsys, home):
    damaged = home / "data" / "conversations" / "2026-01-01-x-00000000.toml"
    damaged.write_text("= nothing")
    assert main(["list"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert "00000000.toml" in err
    assert not damaged.exists()


def test_export_prints_markdown(saved, capsys):
    assert main(["export", saved[0].id[:6]]) == 0
    assert "Why is the sky blue?" in capsys.readouterr().out


@pytest.mark.parametrize("file_format", ["json", "toml"])
def test_export_can_be_read_back(saved, capsys, home, file_format):
    file = home / f"out.{file_format}"
    assert main(["export", "last", "-o", str(file)]) == 0
    assert capsys.readouterr().out == ""
    assert main(["export", "last", "--format", file_format]) == 0
    assert capsys.readouterr().out == file.read_text("utf-8")
    assert loads(file.read_text("utf-8"), file_format).path[0].content.startswith("天空")


def test_the_export_format_overrides_the_suffix(saved, home):
    file = home / "out.json"
    assert main(["export", "last", "--format", "md", "-o", str(file)]) == 0
    assert not file.read_text("utf-8").startswith("{")


def test_export_into_a_missing_folder(saved, capsys, home):
    assert main(["export", "last", "-o", str(home / "no" / "out.md")]) == 1
    assert "out.md: No such file or directory" in capsys.readouterr().err


def test_export_of_an_unknown_conversation(saved, capsys):
    assert main(["export", "zzzz"]) == 1
    assert "zzzz" in capsys.readouterr().err


def test_export_to_a_terminal_has_no_control_characters(saved, capsys, monkeypatch):
    assert main(["export", "last"]) == 0
    assert "\x1b" in capsys.readouterr().out
    for module in (output, subcommands):
        monkeypatch.setattr(module, "is_terminal", lambda stream: True)
    assert main(["export", "last"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "␛[31m散射" in out


def test_import_creates_a_conversation_with_a_new_id(saved, capsys, home):
    file = home / "out.json"
    assert main(["export", saved[1].id, "-o", str(file)]) == 0
    assert main(["import", str(file)]) == 0
    new_id = capsys.readouterr().out.split()[-1]
    assert new_id != saved[1].id
    copy = Store(home / "data" / "conversations").load(new_id)
    assert [m.content for m in copy.path] == [m.content for m in saved[1].path]


def test_import_uses_the_format_of_the_settings(home, capsys):
    (home / "config").mkdir()
    (home / "config" / "config.toml").write_text("[storage]\nformat = 'json'\n")
    file = home / "messages.json"
    file.write_text('[{"role": "user", "content": "hi"}]')
    assert main(["import", str(file)]) == 0
    assert len(list((home / "data" / "conversations").glob("*.json"))) == 1


@pytest.mark.parametrize(("content", "message"), [("{", "x.json"), (None, "x.json")])
def test_import_of_another_file(capsys, home, content, message):
    file = home / "x.json"
    if content is not None:
        file.write_text(content)
    assert main(["import", str(file)]) == 1
    assert message in capsys.readouterr().err


# ---- models, pull


def test_models_fits_80_columns_and_names_all(capsys):
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [model.name for model in MODELS]
    assert all(cell_len(line) <= 80 for line in lines)


def test_models_lists_servers_below(capsys, home):
    (home / "config").mkdir()
    long = f"[servers.lab]\nurl = 'http://lab/{'x' * 99}'\n"
    short = "[servers.b]\nurl = 'http://b'\nmodel = 'glm'\n"
    (home / "config" / "config.toml").write_text(long + short)
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].split() == ["SERVER", "MODEL", "ADDRESS"]
    assert lines[-2].startswith("lab     (first listed)  http://lab/xxx")
    assert lines[-1].split() == ["b", "glm", "http://b"]
    assert all(cell_len(line) <= 80 for line in lines)


def test_pull_prints_how_to_use_the_model(monkeypatch, capsys, tmp_path):
    asked = []

    def pull(ref, *, endpoint, on_progress):
        asked.append((ref, endpoint))
        on_progress(Progress("downloading", 1, 2))
        return ModelInfo("smollm2", tmp_path, "llama", 8192, 96_654_288, "int4")

    monkeypatch.setitem(sys.modules, "glmtui.engine.pull", types.SimpleNamespace(pull=pull))
    assert main(["-s", "hub.endpoint=https://hf-mirror.com", "pull", "smollm2"]) == 0
    assert asked == [("smollm2", "https://hf-mirror.com")]
    out, err = capsys.readouterr()
    assert "smollm2 is ready (97 MB)" in out
    assert err == ""


def test_a_failed_pull(monkeypatch, capsys):
    def pull(ref, *, endpoint, on_progress):
        raise DownloadError("the disk is full", "Free some space.")

    monkeypatch.setitem(sys.modules, "glmtui.engine.pull", types.SimpleNamespace(pull=pull))
    assert main(["pull", "smollm2"]) == 1
    assert capsys.readouterr().err == "glmtui: the disk is full\n  Free some space.\n"


# ---- config


def test_config_without_a_file_prints_its_path_and_an_example(capsys, home):
    assert main(["config"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"# {home / 'config' / 'config.toml'} does not exist")
    assert out.endswith(example_toml())


def test_config_prints_the_file_and_the_variables_that_override_it(capsys, home, monkeypatch):
    (home / "config").mkdir()
    (home / "config" / "config.toml").write_text("model = 'a'\n")
    monkeypatch.setenv("GLMTUI_MODEL", "b")
    assert main(["config"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "# The environment variable GLMTUI_MODEL overrides model.",
        f"# {home / 'config' / 'config.toml'}",
        "model = 'a'",
    ]


def test_config_with_an_invalid_entry_fails(capsys, home):
    file = home / "mine.toml"
    file.write_text("modle = 'a'\n")
    assert main(["--config", str(file), "config"]) == 1
    out, err = capsys.readouterr()
    assert out == f"# {file}\nmodle = 'a'\n"
    assert err == f'glmtui: {file}, line 1: unknown setting "modle"\n  Did you mean model?\n'


def test_config_that_is_a_folder(capsys, home):
    assert main(["--config", str(home), "config"]) == 1
    assert f"Could not read {home}: Is a directory" in capsys.readouterr().err


def test_sampling_flags_are_the_parameters(app):
    assert main(["-s", "do_sample=off", "-s", "max_new_tokens=5"]) == 7
    assert app[0][0].sampling == SamplingParams(do_sample=False, max_new_tokens=5)


def test_what_it_makes_is_not_for_others_to_write(home):
    code = "import os; os.umask(0); from glmtui.cli.main import main; main(['--version']); "
    code += f"open({str(home / 'made')!r}, 'w')"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    assert (home / "made").stat().st_mode & 0o777 == 0o664
