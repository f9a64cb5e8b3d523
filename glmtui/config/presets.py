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
from glmtui.config.setting_type import unknown_setting
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
    """The file of the user's presets; it may not exist."""
    return paths.config_dir() / "presets.toml"


def load_presets(path: Path | None = None) -> tuple[dict[str, SamplingParams], list[ConfigError]]:
    """All presets by name, the built-in ones first, and the errors in the file."""
    path, problems = path or presets_file(), list[ConfigError]()
    presets = dict(BUILT_IN)
    if not path.exists():
        return presets, problems
    text, document = toml_file.read_toml(path, problems)
    known = {row.name: row for row in SAMPLING_FIELDS}
    for name, table in document.items():
        if not isinstance(table, dict):
            error = ConfigError(
                _("{name} is not a preset").format(name=name), _("A preset is a table [NAME].")
            )
            problems.append(toml_file.with_location(error, path, text, (name,)))
            continue
        values: dict[str, Any] = {}
        for key, value in table.items():
            try:
                if key not in known:
                    raise unknown_setting(key, known.values())
                values[key] = known[key].check(value)
            except ConfigError as error:
                problems.append(toml_file.with_location(error, path, text, (name, key)))
        if name not in BUILT_IN:
            presets[name] = SamplingParams(**values)
    return presets, problems


def save_preset(name: str, params: SamplingParams, path: Path | None = None) -> Path:
    """Saves a preset. Returns the file.

    Raises:
        UsageError: the name is not valid or belongs to a built-in preset.
        ConfigError: the file cannot be written, or has errors and would lose entries.
    """
    if name in BUILT_IN or not _NAME.fullmatch(name):
        raise UsageError(
            _("{name!r} is not a valid preset name.").format(name=name),
            _("Use up to 24 letters, digits, - and _. Names of built-in presets are reserved."),
        )
    path = path or presets_file()
    presets, problems = load_presets(path)
    if problems:
        raise problems[0]
    tables = {
        preset: {key: value for key, value in asdict(values).items() if value is not None}
        for preset, values in {**presets, name: params}.items()
        if preset not in BUILT_IN
    }
    try:
        make_private_folder(path.parent)
        replace_file(path, encode_utf8(tomli_w.dumps(tables)))
    except OSError as error:
        raise ConfigError(
            _("Could not write {path}: {reason}").format(path=path, reason=error.strerror)
        ) from error
    return path


def find_preset(name: str) -> SamplingParams:
    """The preset with this name. Raises UsageError."""
    presets, _problems = load_presets()
    if name not in presets:
        raise UsageError(
            _("There is no preset {name!r}.").format(name=name),
            _("Presets: {names}.").format(names=", ".join(presets)),
        )
    return presets[name]


def preset_name(params: SamplingParams, presets: Mapping[str, SamplingParams]) -> str:
    """The name of the preset with exactly these values, or ""."""
    return next((name for name, preset in presets.items() if preset == params), "")
