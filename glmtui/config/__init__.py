"""Settings: which there are, where their values come from, and what is wrong with a bad entry.

Knows config.toml, presets.toml and the environment, not who uses a setting.
"""

from glmtui.config.settings import (
    MAX_PROBLEMS,
    SAMPLING_FIELDS,
    SETTINGS,
    TABLES,
    URL,
    Server,
    Settings,
    config_file,
    find_setting,
    load_settings,
    parse_setting,
)

__all__ = [
    "MAX_PROBLEMS",
    "SAMPLING_FIELDS",
    "SETTINGS",
    "TABLES",
    "URL",
    "Server",
    "Settings",
    "config_file",
    "find_setting",
    "load_settings",
    "parse_setting",
]
