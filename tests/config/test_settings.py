"""Settings: what is read from where, and what is said about a bad entry."""

import time
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmtui.chat import SamplingParams
from glmtui.config import (
    SAMPLING_FIELDS,
    SETTINGS,
    Server,
    Settings,
    find_setting,
    load_settings,
    parse_setting,
)
from glmtui.config.example import example_toml
from glmtui.config.toml_file import line_of_entry
from glmtui.engine.model_info import LoadOptions, ServerSpec
from glmtui.errors import ConfigError
from support import TESTS


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Writes config.toml where glmtui looks for it; returns its path."""
    monkeypatch.setenv("GLMTUI_CONFIG_DIR", str(tmp_path))
    path = tmp_path / "config.toml"

    def write(text: str) -> Path:
        path.write_text(text, encoding="utf-8")
        return path

    return write


def only(problems):
    assert len(problems) == 1, [str(problem) for problem in problems]
    return problems[0]


# ---- one declaration


def test_the_sampling_rows_are_the_sampling_parameters():
    assert [row.name for row in SAMPLING_FIELDS] == [f.name for f in fields(SamplingParams)]
    assert Settings().sampling == SamplingParams()


def test_defaults_leave_loading_to_the_loader():
    assert Settings().load_options == LoadOptions()


def test_every_default_and_example_passes_its_own_check():
    for row in SETTINGS:
        for value in (row.default, row.example):
            assert value is None or row.check(value) == value


def test_names_are_unique_so_that_flat_fields_can_hold_them():
    assert len({row.variable for row in SETTINGS}) == len({row.name for row in SETTINGS})


def test_help_lines_fit_an_80_column_panel():
    assert [row.full_name for row in SETTINGS if not 0 < len(row.help) <= 90] == []
    assert [row.full_name for row in SAMPLING_FIELDS if len(row.help) > 76] == []


# ---- config.example.toml


def test_the_example_in_the_repository_is_what_the_code_prints():
    example = TESTS.parent / "config.example.toml"
    assert example.read_text("utf-8") == example_toml()


def test_the_example_changes_nothing(config):
    config(example_toml())
    assert load_settings(environ={}) == (Settings(), [])


def test_the_example_is_valid_and_complete_when_every_line_is_switched_on(config):
    entries = [
        line.removeprefix("# ")
        for line in example_toml().splitlines()
        if " = " in line or line.removeprefix("# ").startswith("[")
    ]
    config("\n".join(entries))
    settings, problems = load_settings(environ={})
    assert problems == []
    assert settings.servers == {"NAME": Server("http://localhost:8000/v1")}
    for row in SETTINGS:
        shown = row.example if row.default is None else row.default
        assert getattr(settings, row.name) == shown, row.full_name


# ---- where values come from


def test_file_then_environment_then_flags(config):
    config("[sampling]\ntemperature = 0.1\ntop_k = 1\ntop_p = 0.1")
    environ = {"GLMTUI_SAMPLING_TOP_K": "2", "GLMTUI_SAMPLING_TOP_P": "0.2"}
    settings, problems = load_settings(environ=environ, overrides={"top_p": 0.3})
    assert problems == []
    assert settings.sampling == SamplingParams(temperature=0.1, top_k=2, top_p=0.3)


def test_no_file_is_no_problem(tmp_path, monkeypatch):
    monkeypatch.setenv("GLMTUI_CONFIG_DIR", str(tmp_path / "nowhere"))
    assert load_settings(environ={}) == (Settings(), [])


def test_a_named_file_must_be_there(tmp_path):
    settings, problems = load_settings(tmp_path / "gone.toml", environ={})
    assert settings == Settings()
    assert "gone.toml cannot be read: No such file" in only(problems).message


def test_a_named_file_is_read_instead_of_the_usual_one(config, tmp_path):
    config('model = "usual"')
    other = tmp_path / "other.toml"
    other.write_text('model = "named"')
    assert load_settings(other, environ={})[0].model == "named"


def test_the_environment_reaches_every_setting():
    for row in SETTINGS:
        value = row.example if row.default is None else row.default
        settings, problems = load_settings(environ={row.variable: str(value)})
        assert problems == []
        assert getattr(settings, row.name) == value


def test_an_empty_variable_is_not_set_and_folders_are_not_settings():
    environ = {"GLMTUI_MODEL": "", "GLMTUI_DATA_DIR": "/somewhere", "HOME": "/root"}
    assert load_settings(environ=environ) == (Settings(), [])


def test_a_bad_variable_is_named_and_leaves_the_file_in_force(config):
    config("[sampling]\ntemperature = 0.1")
    settings, problems = load_settings(environ={"GLMTUI_SAMPLING_TEMPERATURE": "hot"})
    assert settings.temperature == 0.1
    assert only(problems).message == (
        'GLMTUI_SAMPLING_TEMPERATURE: sampling.temperature = "hot" is not a number from 0 to 2'
    )


def test_an_unknown_variable_gets_the_nearest_name():
    problem = only(load_settings(environ={"GLMTUI_SAMPLING_TEMPRATURE": "1"})[1])
    assert "GLMTUI_SAMPLING_TEMPRATURE" in problem.message
    assert problem.hint == "Did you mean GLMTUI_SAMPLING_TEMPERATURE?"


# ---- servers


def test_a_server_and_its_key(config):
    config('[servers.lab]\nurl = "https://lab/v1"\nmodel = "glm"\nkey_env = "LAB_KEY"')
    settings, problems = load_settings(environ={})
    assert problems == []
    assert settings.servers == {"lab": Server("https://lab/v1", "glm", "LAB_KEY")}
    assert settings.server_specs({"LAB_KEY": "s3"}) == {
        "lab": ServerSpec("https://lab/v1", "glm", "s3")
    }
    assert settings.server_specs({})["lab"].api_key == ""


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        ("[servers.lab]\n\nurl = 'ftp://x'", 3, "servers.lab.url", "API begins"),
        ("[servers.lab]\nurl = ''", 2, "is not an http:// or https:// address", ""),
        ("\n[servers.lab]\nmodel = 'glm'", 2, "servers.lab is not a server", "url"),
        ("servers = 3", 1, "servers is not a server", "[servers.NAME]"),
        ("[servers]\nlab = 'https://x'", 2, "servers.lab is not a server", "[servers.NAME]"),
    ],
)
def test_a_server_that_cannot_be_called_is_left_out(config, text, line, message, hint):
    path = config(text)
    settings, problems = load_settings(environ={})
    assert settings.servers == {}
    assert only(problems).message.startswith(f"{path}, line {line}: ")
    assert message in problems[0].message
    assert hint in problems[0].hint


def test_a_servers_other_entries_are_checked_too(config):
    path = config("[servers.lab]\nurl = 'https://lab/v1'\nkey_en = 'LAB_KEY'")
    settings, problems = load_settings(environ={})
    assert settings.servers == {"lab": Server("https://lab/v1")}
    assert only(problems).message == f'{path}, line 3: there is no setting "servers.lab.key_en"'
    assert problems[0].hint == "Did you mean servers.lab.key_env?"


# ---- bad entries


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        ("\n[sampling]\ntemperature = 9", 3, "= 9 is not a number from 0 to 2", "likeliest"),
        ("[sampling]\ntemperature = -0.1", 2, "is not a number from 0 to 2", ""),
        ("[sampling]\ntemperature = nan", 2, "is not a number from 0 to 2", ""),
        ("[sampling]\ntemperature = inf", 2, "is not a number from 0 to 2", ""),
        ("[sampling]\ntemperature = '0.5'", 2, '= "0.5" is not a number', ""),
        ("[sampling]\ntemperature = true", 2, "= true is not a number", ""),
        ("[sampling]\ntop_k = 3.5", 2, "= 3.5 is not a whole number, 0 or more", ""),
        ("[sampling]\ntop_k = false", 2, "= false is not a whole number", ""),
        ("[sampling]\nseed = 4294967296", 2, "a whole number from 0 to 4294967295", ""),
        ("[sampling]\ndo_sample = 1", 2, "= 1 is not true or false", ""),
        ("[sampling]\ntemprature = 1", 2, 'no setting "sampling.temprature"', "temperature?"),
        ("[sampling.temperature]\nx = 1", 1, "sampling.temperature = {", ""),
        ("sampling = 3", 1, 'no setting "sampling"', "Did you mean [sampling]?"),
        ("[samplng]\ntemperature = 1", 1, 'no setting "samplng"', "Did you mean [sampling]?"),
        ("seed = 1", 1, 'no setting "seed"', "Did you mean sampling.seed?"),
        ("# hi\nmodel = 3", 2, "model = 3 is not the name of a model", "hub id"),
        ("model = ' '", 1, "is not the name of a model", ""),
        ("[load]\ndtype = 'flot16'", 2, "is not one of auto, float32", 'mean "float16"?'),
        ("[load]\ndevice = 'gpu'", 2, "is not one of auto, cpu, cuda, cuda:N", ""),
        ("[load]\ncontext_length = 1", 2, "a whole number, 64 or more", ""),
        ("[storage]\nformat = 1979-05-27", 2, '"1979-05-27" is not one of toml, json', ""),
        ("ui.mouse = 'on'", 1, 'ui.mouse = "on" is not true or false', ""),
        ("ui = { panel = 1 }", 1, "ui.panel = 1", ""),
    ],
)
def test_a_bad_entry_names_line_and_range_and_is_left_out(config, text, line, message, hint):
    path = config(text)
    settings, problems = load_settings(environ={})
    assert settings == Settings()
    assert only(problems).message.startswith(f"{path}, line {line}: ")
    assert message in problems[0].message
    assert hint in problems[0].hint


def test_the_good_entries_beside_a_bad_one_are_in_force(config):
    config("[sampling]\ntop_k = 5\ntop_p = 7\n[ui]\nmouse = false\nmuose = false")
    settings, problems = load_settings(environ={})
    assert (settings.top_k, settings.top_p, settings.mouse) == (5, None, False)
    assert len(problems) == 2


def test_a_whole_number_is_a_number(config):
    config("[sampling]\ntemperature = 1")
    settings, problems = load_settings(environ={})
    assert problems == []
    assert isinstance(settings.temperature, float)


def test_a_long_value_is_cut_short(config):
    config(f"[ui]\nmouse = '{'x' * 5000}'")
    assert len(only(load_settings(environ={})[1]).message.rpartition("ui.mouse")[2]) < 100


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"model = 'a'\n[sampling\n", "line 2: this is not TOML"),
        (b"model = 'a'\nmodel = 'b'\n", "line 2: this is not TOML"),
        (b"# \xe4\n", "line 1: this is not UTF-8"),
        (b"model = 'a'\n\nmodel = '\xff'", "line 3: this is not UTF-8"),
    ],
)
def test_a_broken_file_is_one_problem_and_nothing_of_it_counts(config, raw, message):
    path = config("")
    path.write_bytes(raw)
    settings, problems = load_settings(environ={})
    assert settings == Settings()
    assert f"{path}, {message}" in only(problems).message


def test_a_folder_in_place_of_the_file(config):
    path = config("")
    path.unlink()
    path.mkdir()
    assert "cannot be read" in only(load_settings(environ={})[1]).message


def test_a_byte_order_mark_does_no_harm(config):
    path = config("")
    path.write_bytes(b"\xef\xbb\xbfmodel = 'a'\r\n")
    assert load_settings(environ={}) == (Settings(model="a"), [])


# ---- lines


def test_the_line_is_where_the_entry_begins():
    text = 'a = """\n[t]\nb = 1\n"""\n# b = 1\n[t]\nlist = [\n  1,\n\n  2,\n]\n"b" = 2\nc.d = 3'
    assert line_of_entry(text, ("a",)) == 1
    assert line_of_entry(text, ("t",)) == 6
    assert line_of_entry(text, ("t", "list")) == 7
    assert line_of_entry(text, ("t", "b")) == 12
    assert line_of_entry(text, ("t", "c", "d")) == 13


@given(
    st.lists(
        st.sampled_from(["", "# x = 1", "  ", "[t{n}]", "y{n} = [\n\n]", 'z{n} = """\nx = 1\n"""']),
        max_size=30,
    )
)
def test_the_line_is_found_whatever_stands_above(above):
    lines = "\n".join(part.replace("{n}", str(n)) for n, part in enumerate([*above, ""]))
    text = f"{lines}[last]\nx = 1"
    assert line_of_entry(text, ("last", "x")) == text.count("\n") + 1


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"k{n} = 1\n" for n in range(6000)),
        'a = """\n' + "\n" * 60_000 + '"""\nb = 1\nc = 2\n',
        'a = """\n' + "[\n" * 30_000 + '"""\nb = 1\nc = 2\n',
        "".join(f"[servers.s{n}]\nurl = 1\n" for n in range(2000)),
    ],
    ids=["keys", "lines", "brackets", "servers"],
)
def test_a_file_full_of_mistakes_takes_no_time(config, text):
    config(text)
    began = time.process_time()
    problems = load_settings(environ={})[1]
    assert time.process_time() - began < 5
    assert 2 <= len(problems) <= 21
    assert all(problem.message for problem in problems)


# ---- as typed


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("temperature", "0.5", 0.5),
        ("sampling.temperature", " 1 ", 1.0),
        ("temperature", "", None),
        ("seed", "default", None),
        ("top_k", "0", 0),
        ("do_sample", "off", False),
        ("do_sample", "True", True),
        ("model", "THUDM/chatglm3-6b", "THUDM/chatglm3-6b"),
        ("system_prompt", "", ""),
        ("load.device", "cuda:1", "cuda:1"),
        ("load.quant", "none", "none"),
        ("hub.endpoint", "https://hf-mirror.com", "https://hf-mirror.com"),
    ],
)
def test_a_typed_value(name, text, value):
    parsed = parse_setting(name, text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "message", "hint"),
    [
        ("temperature", "2.5", "= 2.5 is not a number from 0 to 2", ""),
        ("temperature", "warm", '= "warm" is not a number from 0 to 2', ""),
        ("temperature", "nan", "is not a number from 0 to 2", ""),
        ("top_k", "1.5", '= "1.5" is not a whole number, 0 or more', ""),
        ("do_sample", "maybe", '= "maybe" is not true or false', ""),
        ("load.quant", "int5", "is not one of auto, none", 'mean "int'),
        ("temprature", "1", 'no setting "temprature"', "Did you mean sampling.temperature?"),
        ("device", "cpu", 'no setting "device"', "Did you mean load.device?"),
        ("xyzzy", "1", 'no setting "xyzzy"', ""),
    ],
)
def test_a_typed_value_that_is_refused(name, text, message, hint):
    with pytest.raises(ConfigError) as caught:
        parse_setting(name, text)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_quant_none_unpacks_the_weights(config):
    config("[load]\nquant = 'none'\ndevice = 'cpu'\ncontext_length = 512")
    assert load_settings(environ={})[0].load_options == LoadOptions("cpu", "auto", None, 512)


def test_family_and_slim_reach_the_loader(config):
    assert load_settings(environ={})[0].load_options == LoadOptions()
    config("[load]\nfamily = 'chatglm3'\nslim = false")
    assert load_settings(environ={})[0].load_options == LoadOptions(family="chatglm3", slim=False)


def test_a_row_says_what_it_takes():
    assert find_setting("top_p").expected == "a number from 0 to 1"
    assert find_setting("storage.format").expected == "one of toml, json"
