"""The text of config.example.toml, generated from the declarations of the settings."""

from __future__ import annotations

import json

from glmtui.config import SETTINGS, TABLES, Server
from glmtui.config.setting_type import Setting, declared_settings


def example_toml() -> str:
    """A settings file with every setting commented out, each with its help, range and default."""
    parts = [_HEAD, *map(_example, (row for row in SETTINGS if not row.table))]
    for table in TABLES:
        parts.append(f"[{table}]")
        parts += map(_example, (row for row in SETTINGS if row.table == table))
    parts += [_KEYS, _SERVER, *map(_example, declared_settings(Server, "servers.NAME"))]
    return "\n\n".join(parts) + "\n"


_HEAD = """\
# Settings of glmtui. Every line is optional. `glmtui config` shows which file is used.
# An environment variable (GLMTUI_SAMPLING_TEMPERATURE=0.7) overrides this file, and the option
# -s (-s temperature=0.7) overrides both. "Unset" below means that the line is left out."""

_KEYS = """\
# Key bindings for the actions on the help page (F1): one key, a list of keys, or "" for none.
# [keys]

# regenerate = ["f5", "alt+r"]"""

_SERVER = """\
# An OpenAI-compatible server; `glmtui -m NAME` connects to it.
# [servers.NAME]"""


def _example(row: Setting) -> str:
    value = row.default if row.default not in (None, "") else row.example
    # Strings, numbers and booleans are written alike in TOML and JSON.
    text = json.dumps("" if value is None else value, ensure_ascii=False)
    expected = row.expected[0].upper() + row.expected[1:]
    return f"# {row.help}\n# {expected}.\n# {row.name} = {text}"
