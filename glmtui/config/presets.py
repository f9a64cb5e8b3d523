"""Presets: named sets of sampling values. Three are built in; the user's own are in presets.toml.

`save_preset` rewrites the whole file. The file can also be edited by hand: a bad entry is skipped
and reported with its line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli_w

from glmtui.chat import SamplingParams
from glmtui.config import SAMPLING_FIELDS, toml_file
from glmtui.config.schema import unknown_setting
from glmtui.errors import ConfigError, UsageError
from glmtui.language import _
from glmtui.system import paths
from glmtui.system.durable_files import encode_utf8, make_private_folder, replace_file

BUILT_IN: Mapping[str, SamplingParams] = {
    "precise": SamplingParams(temperature=0.2, top_p=0.7, do_sample=True),
    "balanced": SamplingParams(temperature=0.8, top_p=0.8, do_sample=True),
    "creative": SamplingParams(temperature=1.1, top_p=0.95, do_sample=True),
}
_NAME = re.compile(r"[\w-]{1,24}")


def presets_file() -> Path:
    """Where a person's own are kept; it need not exist."""
    return paths.config_dir() / "presets.toml"


def load_presets(path: Path | None = None) -> tuple[dict[str, SamplingParams], list[ConfigError]]:
    """All presets by name, the built-in ones first, and what was wrong with the file's."""
    path, problems = path or presets_file(), list[ConfigError]()
    presets = dict(BUILT_IN)
    if not path.exists():
        return presets, problems
    text, document = toml_file.read_toml(path, problems)
    known = {row.name: row for row in SAMPLING_FIELDS}
    for name, table in document.items():
        values: dict[str, Any] = {}
        for key, value in table.items() if isinstance(table, dict) else [("", table)]:
            try:
                if not isinstance(table, dict):
                    raise ConfigError(
                        _("{name} is no preset").format(name=name), _("It needs a table [NAME].")
                    )
                if key not in known:
                    raise unknown_setting(key, known.values())
                values[key] = known[key].check(value)
            except ConfigError as error:
                problems.append(
                    toml_file.with_location(error, path, text, (name, key)[: 1 + bool(key)])
                )
        if isinstance(table, dict) and name not in BUILT_IN:
            presets[name] = SamplingParams(**values)
    return presets, problems


def save_preset(name: str, params: SamplingParams, path: Path | None = None) -> Path:
    """Keeps `params` under a name. Returns the file.

    Raises:
        UsageError: the name is a built-in one's, or none.
        ConfigError: the file there is cannot be read, so that it is not written over, or written.
    """
    if name in BUILT_IN or not _NAME.fullmatch(name):
        raise UsageError(
            _("{name!r} cannot be the name of a preset of yours.").format(name=name),
            _("Letters, digits, - and _ can; the names of those built in are taken."),
        )
    path = path or presets_file()
    presets, problems = load_presets(path)
    if problems:
        raise problems[0]
    own = {n: p for n, p in {**presets, name: params}.items() if n not in BUILT_IN}
    tables = {n: {k: v for k, v in asdict(p).items() if v is not None} for n, p in own.items()}
    try:
        make_private_folder(path.parent)
        replace_file(path, encode_utf8(tomli_w.dumps(tables)))
    except OSError as error:
        raise ConfigError(
            _("{path} cannot be written: {cause}").format(path=path, cause=error.strerror)
        ) from error
    return path


def find_preset(name: str) -> SamplingParams:
    """The preset of this name. Raises UsageError."""
    presets, _problems = load_presets()
    if name not in presets:
        known = ", ".join(presets)
        raise UsageError(
            _("There is no preset {name!r}.").format(name=name),
            _("There are {names}.").format(names=known),
        )
    return presets[name]


def preset_name(params: SamplingParams, presets: Mapping[str, SamplingParams]) -> str:
    """The preset that these values are; "" for none."""
    return next((name for name, preset in presets.items() if preset == params), "")
