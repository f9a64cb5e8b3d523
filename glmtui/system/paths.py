"""Folders of the program's files, each movable with an environment variable."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def data_dir() -> Path:
    """Conversations (``GLMTUI_DATA_DIR``)."""
    return _folder("GLMTUI_DATA_DIR", platformdirs.user_data_path("glmtui"))


def config_dir() -> Path:
    """config.toml (``GLMTUI_CONFIG_DIR``)."""
    return _folder("GLMTUI_CONFIG_DIR", platformdirs.user_config_path("glmtui"))


def cache_dir() -> Path:
    """Prepared models (``GLMTUI_CACHE_DIR``)."""
    return _folder("GLMTUI_CACHE_DIR", platformdirs.user_cache_path("glmtui"))


def state_dir() -> Path:
    """Logs, drafts and prompt history (``GLMTUI_STATE_DIR``)."""
    return _folder("GLMTUI_STATE_DIR", platformdirs.user_state_path("glmtui"))


def restrict_umask() -> None:
    """Make new files of this process and its children not writable for other users.

    The group bit of the umask stays as it is, for folders that a group shares.
    """
    os.umask(os.umask(0o077) | 0o002)


def _folder(variable: str, default: Path) -> Path:
    value = os.environ.get(variable)
    return Path(value).expanduser() if value else default
