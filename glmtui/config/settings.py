"""The declarations of all settings, and loading their values.

The checks of config.toml, the environment variables, ``-s``, ``/set``, the settings panel and
config.example.toml all use these declarations. Each source overrides those before it: defaults,
config.toml, ``GLMTUI_*`` variables, options. An invalid entry is reported and ignored.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from glmtui.chat import SamplingParams
from glmtui.commands import keymap
from glmtui.config import toml_file
from glmtui.config.setting_type import Setting, Value, declared_settings, setting, unknown_setting
from glmtui.engine.catalog.families import FAMILIES
from glmtui.engine.catalog.quants import KERNELS, QUANTS
from glmtui.engine.model_info import LoadOptions, ServerSpec
from glmtui.errors import ConfigError
from glmtui.language import Language, _
from glmtui.system import paths

MAX_PROBLEMS = 20  # errors reported per file; the entries after them are ignored
URL = r"https?://[^\s/]\S*"


@dataclass(frozen=True, slots=True)
class Server:
    """An OpenAI-compatible server with a name: a ``[servers.NAME]`` table."""

    url: str = setting(
        "Base URL of its API, usually ending in /v1.",
        pattern=URL,
        pattern_help="an http:// or https:// address",
        example="http://localhost:8000/v1",
    )
    model: str = setting("Model to request; empty: the first one that the server lists.", "")
    key_env: str = setting(
        "Environment variable with the API key; empty: no key.",
        "",
        pattern=r"\w*",
        pattern_help="the name of an environment variable",
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, checked. Each field declares a setting; a new setting is a new field.

    Fields of the tables load and quant must also exist in `LoadOptions`, those of sampling in
    `SamplingParams`: a test compares them.

    Attributes:
        servers: the ``[servers.NAME]`` tables, by name.
        bindings: the ``[keys]`` table: keys by action.
    """

    model: str | None = setting(
        "Model to load: a known name, hub name, folder, server name or server address.",
        None,
        pattern=r".*\S.*",
        pattern_help="a model name",
        example="smollm2",
    )
    system_prompt: str | None = setting(
        "System prompt; unset: the model's own default.",
        None,
        example="You answer in one short paragraph.",
    )
    keep_turns: int | None = setting(
        "Number of latest turns that are sent to the model; unset: all that fit.",
        None,
        low=1,
        high=10_000,
        example=8,
    )

    temperature: float | None = setting(
        "Randomness of sampling; 0 always picks the most likely token.",
        None,
        table="sampling",
        low=0,
        high=2,
        example=0.7,
    )
    top_k: int | None = setting(
        "Sample only from the N most likely tokens; 0 means no limit.",
        None,
        table="sampling",
        low=0,
        example=40,
    )
    top_p: float | None = setting(
        "Sample only from the most likely tokens whose probabilities add up to this.",
        None,
        table="sampling",
        low=0,
        high=1,
        example=0.8,
    )
    repetition_penalty: float | None = setting(
        "Values above 1 make tokens that already occurred less likely.",
        None,
        table="sampling",
        low=0.5,
        high=2,
        example=1.1,
    )
    do_sample: bool | None = setting(
        "Use random sampling; false is the same as temperature 0.",
        None,
        table="sampling",
        example=True,
    )
    seed: int | None = setting(
        "Random seed; the same seed and prompt give the same reply.",
        None,
        table="sampling",
        low=0,
        high=2**32 - 1,
        example=42,
    )
    max_length: int | None = setting(
        "Maximum length of prompt and reply together, in tokens.",
        None,
        table="sampling",
        low=1,
        example=8192,
    )
    max_new_tokens: int | None = setting(
        "Maximum length of the reply, in tokens.", None, table="sampling", low=1, example=1024
    )

    device: str = setting(
        "Device for the model; balanced spreads its layers over all GPUs.",
        "auto",
        table="load",
        pattern=r"auto|cpu|cuda(:\d{1,3})?|balanced",
        pattern_help="one of auto, cpu, cuda, cuda:N, balanced",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "Data type for computation.", "auto", table="load"
    )
    quant: str = setting(
        "Quantisation of the weights; auto keeps the stored format, none loads 16 bits.",
        "auto",
        table="load",
        choices=("auto", "none", *QUANTS),
    )
    context_length: int | None = setting(
        "Context length to allocate, in tokens; unset: the model's maximum.",
        None,
        table="load",
        low=64,
        example=8192,
    )
    family: str = setting(
        "Model family of a folder; set it if auto detects the wrong one.",
        "auto",
        table="load",
        choices=("auto", *(family.key for family in FAMILIES)),
    )
    slim: bool = setting(
        "Save memory by leaving out ChatGLM-6B's image tokens, which text never uses.",
        True,
        table="load",
    )
    cache_gb: float | None = setting(
        "Memory limit for the KV caches of conversations, in GB.",
        None,
        table="load",
        low=0,
        example=2.0,
    )
    speculation: Literal["auto", "on", "off"] = setting(
        "Prompt lookup decoding; auto: while it is faster, never on a single GPU.",
        "auto",
        table="load",
    )

    kernel: str = setting(
        "GPU kernel for int8 and int4 weights.", "auto", table="quant", choices=KERNELS
    )

    endpoint: str | None = setting(
        "Address of the hub to pull models from; unset: that of HF_ENDPOINT.",
        None,
        table="hub",
        pattern=URL,
        pattern_help="an http:// or https:// address",
        example="https://hf-mirror.com",
    )
    format: Literal["toml", "json"] = setting(
        "File format of new conversations; both formats can be read.", "toml", table="storage"
    )
    language: Literal["auto", Language] = setting(
        "Language of the interface; auto follows the locale.", "auto", table="ui"
    )
    theme: str = setting("Colour theme; type /theme to see all.", "ink", table="ui")
    keys: Literal["default", "vim"] = setting(
        "Key bindings; the table [keys] changes single keys.", "default", table="ui"
    )
    mouse: bool = setting(
        "Use the mouse in the app; false leaves it to the terminal.", True, table="ui"
    )
    motion: bool = setting(
        "Stream replies smoothly; false redraws only twice a second, for slow links.",
        True,
        table="ui",
    )
    plain: bool = setting(
        "Chat line by line instead of full screen, for screen readers.",
        False,
        table="ui",
    )
    panel: bool = setting("Open the settings panel at start.", False, table="ui")

    servers: dict[str, Server] = field(default_factory=dict)
    bindings: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def sampling(self) -> SamplingParams:
        """The sampling settings; None means the model's default."""
        return SamplingParams(**{row.name: getattr(self, row.name) for row in SAMPLING_FIELDS})

    @property
    def load_options(self) -> LoadOptions:
        quant = None if self.quant == "none" else self.quant
        family = None if self.family == "auto" else self.family
        values = {
            row.name: getattr(self, row.name) for row in SETTINGS if row.table in ("load", "quant")
        }
        return LoadOptions(**values | {"quant": quant, "family": family})

    def server_specs(self, environ: Mapping[str, str] = os.environ) -> dict[str, ServerSpec]:
        """The servers by name; API keys are read from `environ`, and empty if not set."""
        return {
            name: ServerSpec(server.url, server.model, environ.get(server.key_env, ""))
            for name, server in self.servers.items()
        }


SETTINGS = declared_settings(Settings)
SAMPLING_FIELDS = tuple(row for row in SETTINGS if row.table == "sampling")
TABLES = tuple(dict.fromkeys(row.table for row in SETTINGS if row.table))


def find_setting(name: str) -> Setting:
    """The setting with this full or short name. Raises ConfigError."""
    for row in SETTINGS:
        if name in (row.full_name, row.short_name):
            return row
    raise unknown_setting(name, SETTINGS)


def parse_setting(name: str, text: str) -> Value:
    """The value of the setting `name` for a text that the user typed. Raises ConfigError."""
    return find_setting(name).parse(text)


# ---- loading


def config_file() -> Path:
    """The default settings file; it may not exist."""
    return paths.config_dir() / "config.toml"


def load_settings(
    path: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    overrides: Mapping[str, Value] | None = None,
) -> tuple[Settings, list[ConfigError]]:
    """The settings from all sources, and the errors in the entries that were ignored.

    Args:
        path: a file that must exist; None reads `config_file()` if it exists.
        environ: the source of the ``GLMTUI_*`` variables; empty values count as not set.
        overrides: checked values by full or short name, from command-line options.
    """
    problems: list[ConfigError] = []
    values: dict[str, Any] = {}
    if path is not None or config_file().exists():
        values |= _from_file(path or config_file(), problems)
    values |= _from_environment(environ, problems)
    values |= {find_setting(name).name: value for name, value in (overrides or {}).items()}
    return Settings(**values), problems


def _from_environment(environ: Mapping[str, str], problems: list[ConfigError]) -> dict[str, Any]:
    known = {row.variable: row for row in SETTINGS}
    values: dict[str, Any] = {}
    for variable, text in environ.items():
        # Not settings: GLMTUI_DATA_DIR and the other folders (see system.paths), and
        # GLMTUI_CPU_ISA, which selects CPU kernels.
        is_setting = not variable.endswith(("_DIR", "_CPU_ISA"))
        if not variable.startswith("GLMTUI_") or not is_setting or not text:
            continue
        if row := known.get(variable):
            try:
                values[row.name] = row.parse(text)
            except ConfigError as error:
                problems.append(ConfigError(f"{variable}: {error.message}", error.hint))
        else:
            similar = difflib.get_close_matches(variable, known, n=1)
            hint = _("Did you mean {name}?").format(name=similar[0]) if similar else ""
            problems.append(
                ConfigError(
                    _("unknown environment variable {variable}").format(variable=variable), hint
                )
            )
    return values


def _from_file(path: Path, problems: list[ConfigError]) -> dict[str, Any]:
    text, document = toml_file.read_toml(path, problems)
    values: dict[str, Any] = {}
    bindings: dict[str, tuple[str, ...]] = {}
    servers: dict[str, dict[str, Any]] = {}
    for entry, value in _entries(document):
        if len(problems) >= MAX_PROBLEMS:
            problems.append(
                ConfigError(
                    _("{path}: too many errors").format(path=path),
                    _("The rest of the file is ignored."),
                )
            )
            break
        try:
            if entry[0] == "keys" and len(entry) == 2:
                bindings[entry[1]] = keymap.check(entry[1], value)
                continue
            row = _setting_of(entry)
            checked = row.check(value)
        except ConfigError as error:
            problems.append(toml_file.with_location(error, path, text, entry))
            continue
        if entry[0] == "servers":
            servers.setdefault(entry[1], {})[row.name] = checked
        else:
            values[row.name] = checked
    for action, clash in list(keymap.clashes(bindings)):
        problems.append(toml_file.with_location(clash, path, text, ("keys", action)))
        del bindings[action]
    values["bindings"] = bindings
    # A server without a valid address is left out.
    values["servers"] = {name: Server(**s) for name, s in servers.items() if "url" in s}
    return values


def _entries(document: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], object]]:
    """The keys and the value of each entry; a server without url is yielded as one entry."""
    for key, value in document.items():
        if key == "servers" and isinstance(value, dict):
            for name, server in value.items():
                if not isinstance(server, dict) or "url" not in server:
                    yield (key, name), server
                else:
                    for inner_key, inner in server.items():
                        yield (key, name, inner_key), inner
        elif key in (*TABLES, "keys") and isinstance(value, dict):
            for inner_key, inner in value.items():
                yield (key, inner_key), inner
        else:
            yield (key,), value


def _setting_of(entry: tuple[str, ...]) -> Setting:
    name = ".".join(entry)
    if entry[0] != "servers":
        known = SETTINGS
    elif len(entry) == 3:
        known = declared_settings(Server, f"servers.{entry[1]}")
    else:
        raise ConfigError(
            _("{name} is not a server").format(name=name),
            _("A server is a table [servers.NAME] with a url."),
        )
    for row in known:
        if row.full_name == name:
            return row
    raise unknown_setting(name, known)
