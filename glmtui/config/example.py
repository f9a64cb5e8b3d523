"""config.example.toml: every setting with its default, range and help, as the fields declare them.

Knows how a setting is written down for a person; which there are, `config` knows.
"""

from __future__ import annotations

import json

from glmtui.config import SETTINGS, TABLES, Server
from glmtui.config.schema import Setting, declared_settings


def example_toml() -> str:
    """The text of config.example.toml: every setting, commented out, with its range and help."""
    parts = [_HEAD, *map(_example, (row for row in SETTINGS if not row.table))]
    for table in TABLES:
        parts.append(f"[{table}]")
        parts += map(_example, (row for row in SETTINGS if row.table == table))
    parts += [_KEYS, _SERVER, *map(_example, declared_settings(Server, "servers.NAME"))]
    return "\n\n".join(parts) + "\n"


_HEAD = """\
# The settings of glmtui. Every line is optional; `glmtui config` says which file is read.
# An environment variable (GLMTUI_SAMPLING_TEMPERATURE=0.7) overrides a line here, and a flag
# (-s temperature=0.7) overrides both. What has no default here is left to the model."""

_KEYS = """\
# Keys of your own, for any action that the help page (F1) has: one, several, or "" for none.
# [keys]

# regenerate = ["f5", "alt+r"]"""

_SERVER = """\
# An OpenAI-compatible server; `glmtui -m NAME` chats through it.
# [servers.NAME]"""


def _example(row: Setting) -> str:
    shown = row.default if row.default not in (None, "") else row.example
    # TOML's strings, numbers and booleans are written as JSON's are.
    value = json.dumps("" if shown is None else shown, ensure_ascii=False)
    takes = row.expected[0].upper() + row.expected[1:]
    return f"# {row.help}\n# {takes}.\n# {row.name} = {value}"
