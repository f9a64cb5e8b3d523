"""Settings: which there are, where their values come from, and what is wrong with a bad entry.

Every setting is declared once, as a field of `Settings` (or of `Server`). The check of
config.toml, the environment variables, ``-s name=value``, ``/set``, the settings panel and
config.example.toml are all made from those fields. Later sources win: defaults, file,
``GLMTUI_*`` environment, flags. A bad entry becomes a ConfigError that names its file and line,
and what stood before stays in force. Nothing here knows about screens or models in memory.
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
from glmtui.config.schema import Setting, Value, rows, setting, unknown
from glmtui.engine.catalog.resolver import FAMILIES, KERNELS, QUANTS
from glmtui.engine.model_info import LoadOptions, ServerSpec
from glmtui.errors import ConfigError
from glmtui.language import _
from glmtui.system import paths

MOST_PROBLEMS = 20  # then the rest of the file is left out
URL = r"https?://[^\s/]\S*"


@dataclass(frozen=True, slots=True)
class Server:
    """An OpenAI-compatible server with a name: a ``[servers.NAME]`` table."""

    url: str = setting(
        "Where its API begins, usually ending in /v1.",
        pattern=URL,
        form="an http:// or https:// address",
        example="http://localhost:8000/v1",
    )
    model: str = setting("The model to ask for there; empty takes the first it lists.", "")
    key_env: str = setting(
        "The environment variable that holds its API key; empty where it needs none.",
        "",
        pattern=r"\w*",
        form="the name of an environment variable",
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting, checked. One field declares one setting; nothing else does.

    Attributes:
        servers: the ``[servers.NAME]`` tables, by name.
        bindings: the ``[keys]`` table: keys by action.
    """

    model: str | None = setting(
        "The model to open: a known name, a hub id, a folder, an address, or a server's name.",
        None,
        pattern=r".*\S.*",
        form="the name of a model",
        example="smollm2",
    )
    system_prompt: str | None = setting(
        "What the model is told before a conversation; left out, its own default is used.",
        None,
        example="You answer in one short paragraph.",
    )
    keep_turns: int | None = setting(
        "How many of the last turns the model is given; left out, all that fit.",
        None,
        low=1,
        high=10_000,
        example=8,
    )

    temperature: float | None = setting(
        "How freely the reply is chosen; 0 always takes the likeliest token.",
        None,
        table="sampling",
        low=0,
        high=2,
        example=0.7,
    )
    top_k: int | None = setting(
        "Choose among this many of the likeliest tokens; 0 means all.",
        None,
        table="sampling",
        low=0,
        example=40,
    )
    top_p: float | None = setting(
        "Choose among the likeliest tokens that together reach this probability.",
        None,
        table="sampling",
        low=0,
        high=1,
        example=0.8,
    )
    repetition_penalty: float | None = setting(
        "Over 1, tokens that were already said become less likely.",
        None,
        table="sampling",
        low=0.5,
        high=2,
        example=1.1,
    )
    do_sample: bool | None = setting(
        "Whether chance plays a part; false is the same as temperature 0.",
        None,
        table="sampling",
        example=True,
    )
    seed: int | None = setting(
        "Makes the same question give the same reply again.",
        None,
        table="sampling",
        low=0,
        high=2**32 - 1,
        example=42,
    )
    max_length: int | None = setting(
        "Longest prompt and reply together, in tokens.",
        None,
        table="sampling",
        low=1,
        example=8192,
    )
    max_new_tokens: int | None = setting(
        "Longest reply, in tokens.", None, table="sampling", low=1, example=1024
    )

    device: str = setting(
        "Where the model runs; balanced spreads its layers over all GPUs.",
        "auto",
        table="load",
        pattern=r"auto|cpu|cuda(:\d{1,3})?|balanced",
        form="one of auto, cpu, cuda, cuda:N, balanced",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "The number type the model computes in.", "auto", table="load"
    )
    quant: str = setting(
        "How weights are held; auto keeps them as stored, none unpacks them.",
        "auto",
        table="load",
        choices=("auto", "none", *QUANTS),
    )
    context_length: int | None = setting(
        "Room for prompt and reply, in tokens; left out, the model's own length.",
        None,
        table="load",
        low=64,
        example=8192,
    )
    family: str = setting(
        "Which kind of model a folder holds, where its files tell it wrongly.",
        "auto",
        table="load",
        choices=("auto", *(family.key for family in FAMILIES)),
    )
    slim: bool = setting(
        "Whether ChatGLM-6B's image tokens, which no text has, are left out of memory.",
        True,
        table="load",
    )
    cache_gb: float | None = setting(
        "Memory for the KV caches of conversations, in GB.", None, table="load", low=0, example=2.0
    )
    speculation: Literal["auto", "on", "off"] = setting(
        "Read ahead what repeats earlier text; auto: while it is faster, on one GPU never.",
        "auto",
        table="load",
    )

    kernel: str = setting(
        "What multiplies with int8 and int4 on a GPU.", "auto", table="quant", choices=KERNELS
    )

    endpoint: str | None = setting(
        "The hub that models are pulled from, if not the one HF_ENDPOINT names.",
        None,
        table="hub",
        pattern=URL,
        form="an http:// or https:// address",
        example="https://hf-mirror.com",
    )
    format: Literal["toml", "json"] = setting(
        "How new conversations are written; both kinds are always read.", "toml", table="storage"
    )
    language: Literal["auto", "en", "zh"] = setting(
        "The language of the app; auto is the locale's.", "auto", table="ui"
    )
    theme: str = setting("Colours; the app's theme list names them all.", "ink", table="ui")
    keys: Literal["default", "vim"] = setting(
        "The set of keys; the table [keys] changes single ones.", "default", table="ui"
    )
    mouse: bool = setting(
        "Whether the mouse works in the app; false leaves it to the terminal.", True, table="ui"
    )
    motion: bool = setting(
        "Whether text flows in; false draws a reply twice a second, for slow links.",
        True,
        table="ui",
    )
    plain: bool = setting(
        "Whether the app is lines of text without a screen, for screen readers.",
        False,
        table="ui",
    )
    panel: bool = setting("Whether the settings panel is open at the start.", False, table="ui")

    servers: dict[str, Server] = field(default_factory=dict)
    bindings: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def sampling(self) -> SamplingParams:
        """The sampling settings; None in it means the model's own."""
        return SamplingParams(**{row.name: getattr(self, row.name) for row in SAMPLING_FIELDS})

    @property
    def load_options(self) -> LoadOptions:
        """How a model is to be held in memory."""
        quant = None if self.quant == "none" else self.quant
        family = None if self.family == "auto" else self.family
        given = {
            row.name: getattr(self, row.name) for row in SETTINGS if row.table in ("load", "quant")
        }
        return LoadOptions(**given | {"quant": quant, "family": family})

    def server_specs(self, environ: Mapping[str, str] = os.environ) -> dict[str, ServerSpec]:
        """The servers by name, each with its key out of the environment (empty where not set)."""
        return {
            name: ServerSpec(server.url, server.model, environ.get(server.key_env, ""))
            for name, server in self.servers.items()
        }


SETTINGS = rows(Settings)
SAMPLING_FIELDS = tuple(row for row in SETTINGS if row.table == "sampling")
TABLES = tuple(dict.fromkeys(row.table for row in SETTINGS if row.table))


def find(name: str) -> Setting:
    """The setting of this name, dotted or, for sampling, bare. Raises ConfigError."""
    for row in SETTINGS:
        if name == row.dotted or (name == row.name and row.table in ("", "sampling")):
            return row
    raise unknown(name, SETTINGS)


def parse_setting(name: str, text: str) -> Value:
    """The value that `text`, as typed, gives the setting `name`. Raises ConfigError."""
    return find(name).parse(text)


# ---- where values come from


def config_file() -> Path:
    """The file that is read when none is named; it need not exist."""
    return paths.config_dir() / "config.toml"


def load(
    path: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    overrides: Mapping[str, Value] | None = None,
) -> tuple[Settings, list[ConfigError]]:
    """The settings in force, and what was wrong with the entries that were left out.

    Args:
        path: a file that should exist; None reads `config_file()` if there is one.
        environ: looked through for ``GLMTUI_*``; empty values count as not set.
        overrides: checked values by dotted or bare name (see `parse_setting`), from flags.
    """
    problems: list[ConfigError] = []
    values: dict[str, Any] = {}
    if path is not None or config_file().exists():
        values |= _from_file(path or config_file(), problems)
    values |= _from_environment(environ, problems)
    values |= {find(name).name: value for name, value in (overrides or {}).items()}
    return Settings(**values), problems


def _from_environment(environ: Mapping[str, str], problems: list[ConfigError]) -> dict[str, Any]:
    known = {row.variable: row for row in SETTINGS}
    values: dict[str, Any] = {}
    for variable, text in environ.items():
        # GLMTUI_DATA_DIR and its like move folders (see paths), GLMTUI_CPU_ISA picks kernels (see
        # engine.hardware.cpu); they are not settings.
        other = variable.endswith(("_DIR", "_CPU_ISA"))
        if not variable.startswith("GLMTUI_") or other or not text:
            continue
        if row := known.get(variable):
            try:
                values[row.name] = row.parse(text)
            except ConfigError as error:
                problems.append(ConfigError(f"{variable}: {error.message}", error.hint))
        else:
            near = difflib.get_close_matches(variable, known, n=1)
            hint = _("Did you mean {name}?").format(name=near[0]) if near else ""
            problems.append(
                ConfigError(
                    _("{variable} in the environment is no setting").format(variable=variable), hint
                )
            )
    return values


def _from_file(path: Path, problems: list[ConfigError]) -> dict[str, Any]:
    text, document = toml_file.read(path, problems)
    values: dict[str, Any] = {}
    bound: dict[str, tuple[str, ...]] = {}
    servers: dict[str, dict[str, Any]] = {}
    for entry, value in _entries(document):
        if len(problems) >= MOST_PROBLEMS:
            problems.append(
                ConfigError(
                    _("{path}: much is wrong here").format(path=path),
                    _("The rest is not in force."),
                )
            )
            break
        try:
            if entry[0] == "keys" and len(entry) == 2:
                bound[entry[1]] = keymap.check(entry[1], value)
                continue
            row = _row_of(entry)
            checked = row.check(value)
        except ConfigError as error:
            problems.append(toml_file.located(error, path, text, entry))
            continue
        if entry[0] == "servers":
            servers.setdefault(entry[1], {})[row.name] = checked
        else:
            values[row.name] = checked
    for action, clash in list(keymap.clashes(bound)):
        problems.append(toml_file.located(clash, path, text, ("keys", action)))
        del bound[action]
    values["bindings"] = bound
    # A server whose address was refused cannot be called.
    values["servers"] = {name: Server(**s) for name, s in servers.items() if "url" in s}
    return values


def _entries(document: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], object]]:
    """Each entry with its path; tables are gone into, servers only if they have an address."""
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


def _row_of(entry: tuple[str, ...]) -> Setting:
    name = ".".join(entry)
    if entry[0] != "servers":
        known = SETTINGS
    elif len(entry) == 3:
        known = rows(Server, f"servers.{entry[1]}")
    else:
        raise ConfigError(
            _("{name} is not a server").format(name=name),
            _("It needs a table [servers.NAME] with a url."),
        )
    for row in known:
        if row.dotted == name:
            return row
    raise unknown(name, known)
