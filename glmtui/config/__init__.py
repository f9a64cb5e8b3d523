"""Settings and sampling presets: what exists, where values come from, and how they are checked.

Reads config.toml, presets.toml and the environment. What a setting does is not known here.
"""

from glmtui.config.settings import (
    SAMPLING_FIELDS,
    SETTINGS,
    TABLES,
    Server,
    Settings,
    config_file,
    find_setting,
    load_settings,
    parse_setting,
)

__all__ = [
    "SAMPLING_FIELDS",
    "SETTINGS",
    "TABLES",
    "Server",
    "Settings",
    "config_file",
    "find_setting",
    "load_settings",
    "parse_setting",
]
