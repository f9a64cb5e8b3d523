"""Settings: their declarations, their sources, and the errors for invalid entries."""

import time
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

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


def single(problems):
    assert len(problems) == 1, [str(problem) for problem in problems]
    return problems[0]


# ---- one declaration


def test_the_sampling_settings_have_the_fields_of_sampling_params():
    assert [row.name for row in SAMPLING_FIELDS] == [f.name for f in fields(SamplingParams)]
    assert Settings().sampling == SamplingParams()
    types = get_type_hints(SamplingParams)
    assert types == {name: get_type_hints(Settings)[name] for name in types}


def test_the_defaults_are_those_of_load_options():
    assert Settings().load_options == LoadOptions()


def test_every_default_and_example_passes_its_own_check():
    for row in SETTINGS:
        for value in (row.default, row.example):
            assert value is None or row.check(value) == value


def test_names_are_unique_across_tables():
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


def test_the_example_with_every_line_uncommented_is_valid_and_complete(config):
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


# ---- sources of values


def test_file_then_environment_then_flags(config):
    config("[sampling]\ntemperature = 0.1\ntop_k = 1\ntop_p = 0.1")
    environ = {"GLMTUI_SAMPLING_TOP_K": "2", "GLMTUI_SAMPLING_TOP_P": "0.2"}
    settings, problems = load_settings(environ=environ, overrides={"top_p": 0.3})
    assert problems == []
    assert settings.sampling == SamplingParams(temperature=0.1, top_k=2, top_p=0.3)


def test_no_file_is_no_problem(tmp_path, monkeypatch):
    monkeypatch.setenv("GLMTUI_CONFIG_DIR", str(tmp_path / "nowhere"))
    assert load_settings(environ={}) == (Settings(), [])


def test_a_named_file_must_exist(tmp_path):
    settings, problems = load_settings(tmp_path / "gone.toml", environ={})
    assert settings == Settings()
    assert f"Could not read {tmp_path}/gone.toml: No such file" in single(problems).message


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


def test_empty_variables_and_folder_variables_are_ignored():
    environ = {"GLMTUI_MODEL": "", "GLMTUI_DATA_DIR": "/somewhere", "HOME": "/root"}
    assert load_settings(environ=environ) == (Settings(), [])


def test_an_invalid_variable_is_reported_and_does_not_override_the_file(config):
    config("[sampling]\ntemperature = 0.1")
    settings, problems = load_settings(environ={"GLMTUI_SAMPLING_TEMPERATURE": "hot"})
    assert settings.temperature == 0.1
    assert single(problems).message == (
        'GLMTUI_SAMPLING_TEMPERATURE: temperature must be a number from 0 to 2, not "hot"'
    )


def test_an_unknown_variable_gets_the_nearest_name():
    problem = single(load_settings(environ={"GLMTUI_SAMPLING_TEMPRATURE": "1"})[1])
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
        ("[servers.lab]\n\nurl = 'ftp://x'", 3, "servers.lab.url", "Base URL"),
        ("[servers.lab]\nurl = ''", 2, "must be an http:// or https:// address", ""),
        ("\n[servers.lab]\nmodel = 'glm'", 2, "servers.lab is not a server", "url"),
        ("servers = 3", 1, "servers is not a server", "[servers.NAME]"),
        ("[servers]\nlab = 'https://x'", 2, "servers.lab is not a server", "[servers.NAME]"),
    ],
)
def test_a_server_without_a_valid_address_is_ignored(config, text, line, message, hint):
    path = config(text)
    settings, problems = load_settings(environ={})
    assert settings.servers == {}
    assert single(problems).message.startswith(f"{path}, line {line}: ")
    assert message in problems[0].message
    assert hint in problems[0].hint


def test_the_other_entries_of_a_server_are_checked_too(config):
    path = config("[servers.lab]\nurl = 'https://lab/v1'\nkey_en = 'LAB_KEY'")
    settings, problems = load_settings(environ={})
    assert settings.servers == {"lab": Server("https://lab/v1")}
    assert single(problems).message == f'{path}, line 3: unknown setting "servers.lab.key_en"'
    assert problems[0].hint == "Did you mean servers.lab.key_env?"


# ---- invalid entries


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        (
            "\n[sampling]\ntemperature = 9",
            3,
            "temperature must be from 0 to 2, not 9",
            "Randomness",
        ),
        ("[sampling]\ntemperature = -0.1", 2, "must be from 0 to 2, not -0.1", ""),
        ("[sampling]\ntemperature = nan", 2, "must be from 0 to 2, not nan", ""),
        ("[sampling]\ntemperature = inf", 2, "must be from 0 to 2, not inf", ""),
        ("[sampling]\ntemperature = '0.5'", 2, 'must be a number from 0 to 2, not "0.5"', ""),
        ("[sampling]\ntemperature = true", 2, "must be a number from 0 to 2, not true", ""),
        ("[sampling]\ntop_k = 3.5", 2, "top_k must be a whole number, at least 0, not 3.5", ""),
        ("[sampling]\ntop_k = false", 2, "must be a whole number, at least 0, not false", ""),
        (
            "[sampling]\nseed = 4294967296",
            2,
            "seed must be from 0 to 4294967295, not 4294967296",
            "",
        ),
        ("[sampling]\ndo_sample = 1", 2, "do_sample must be true or false, not 1", ""),
        ("[sampling]\ntemprature = 1", 2, 'unknown setting "sampling.temprature"', "temperature?"),
        ("[sampling.temperature]\nx = 1", 1, "temperature must be a number from 0 to 2, not {", ""),
        ("sampling = 3", 1, 'unknown setting "sampling"', "Did you mean [sampling]?"),
        ("[samplng]\ntemperature = 1", 1, 'unknown setting "samplng"', "Did you mean [sampling]?"),
        ("seed = 1", 1, 'unknown setting "seed"', "Did you mean sampling.seed?"),
        ("# hi\nmodel = 3", 2, "model must be a model name, not 3", "hub name"),
        ("model = ' '", 1, "must be a model name", ""),
        (
            "[load]\ndtype = 'flot16'",
            2,
            "load.dtype must be one of auto, float32",
            'mean "float16"?',
        ),
        ("[load]\ndevice = 'gpu'", 2, "must be one of auto, cpu, cuda, cuda:N", ""),
        ("[load]\ncontext_length = 1", 2, "load.context_length must be at least 64, not 1", ""),
        ("[storage]\nformat = 1979-05-27", 2, 'must be one of toml, json, not "1979-05-27"', ""),
        ("ui.mouse = 'on'", 1, 'ui.mouse must be true or false, not "on"', ""),
        ("ui = { panel = 1 }", 1, "ui.panel must be true or false, not 1", ""),
    ],
)
def test_an_invalid_entry_is_ignored_and_reported_with_line_and_range(
    config, text, line, message, hint
):
    path = config(text)
    settings, problems = load_settings(environ={})
    assert settings == Settings()
    assert single(problems).message.startswith(f"{path}, line {line}: ")
    assert message in problems[0].message
    assert hint in problems[0].hint


def test_valid_entries_beside_an_invalid_one_are_used(config):
    config("[sampling]\ntop_k = 5\ntop_p = 7\n[ui]\nmouse = false\nmuose = false")
    settings, problems = load_settings(environ={})
    assert (settings.top_k, settings.top_p, settings.mouse) == (5, None, False)
    assert len(problems) == 2


def test_an_int_is_converted_to_float(config):
    config("[sampling]\ntemperature = 1")
    settings, problems = load_settings(environ={})
    assert problems == []
    assert isinstance(settings.temperature, float)


def test_a_long_value_is_cut_short(config):
    config(f"[ui]\nmouse = '{'x' * 5000}'")
    assert len(single(load_settings(environ={})[1]).message.rpartition("ui.mouse")[2]) < 100


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"model = 'a'\n[sampling\n", "line 2: invalid TOML"),
        (b"model = 'a'\nmodel = 'b'\n", "line 2: invalid TOML"),
        (b"# \xe4\n", "line 1: invalid UTF-8"),
        (b"model = 'a'\n\nmodel = '\xff'", "line 3: invalid UTF-8"),
    ],
)
def test_a_malformed_file_is_one_error_and_is_ignored(config, raw, message):
    path = config("")
    path.write_bytes(raw)
    settings, problems = load_settings(environ={})
    assert settings == Settings()
    assert f"{path}, {message}" in single(problems).message


def test_a_folder_instead_of_the_file(config):
    path = config("")
    path.unlink()
    path.mkdir()
    assert "Could not read" in single(load_settings(environ={})[1]).message


def test_a_byte_order_mark_is_ignored(config):
    path = config("")
    path.write_bytes(b"\xef\xbb\xbfmodel = 'a'\r\n")
    assert load_settings(environ={}) == (Settings(model="a"), [])


# ---- line numbers


def test_the_line_is_where_the_entry_starts():
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
def test_the_line_is_found_after_any_lines(above):
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
def test_a_file_full_of_errors_is_read_quickly(config, text):
    config(text)
    start = time.process_time()
    problems = load_settings(environ={})[1]
    assert time.process_time() - start < 5
    assert 2 <= len(problems) <= 21
    assert all(problem.message for problem in problems)


# ---- typed values


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
        ("temperature", "2.5", "temperature must be from 0 to 2, not 2.5", ""),
        ("temperature", "warm", 'must be a number from 0 to 2, not "warm"', ""),
        ("temperature", "nan", "must be from 0 to 2, not nan", ""),
        ("top_k", "1.5", 'must be a whole number, at least 0, not "1.5"', ""),
        ("do_sample", "maybe", 'must be true or false, not "maybe"', ""),
        ("load.quant", "int5", "load.quant must be one of auto, none", 'mean "int'),
        ("temprature", "1", 'unknown setting "temprature"', "Did you mean sampling.temperature?"),
        ("device", "cpu", 'unknown setting "device"', "Did you mean load.device?"),
        ("xyzzy", "1", 'unknown setting "xyzzy"', ""),
    ],
)
def test_an_invalid_typed_value(name, text, message, hint):
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


def test_a_setting_describes_its_valid_values():
    assert find_setting("top_p").expected == "a number from 0 to 1"
    assert find_setting("storage.format").expected == "one of toml, json"
