"""Where files live: one function per folder, each with an environment variable that moves it."""

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
    """Logs, drafts, and what was sent (``GLMTUI_STATE_DIR``)."""
    return _folder("GLMTUI_STATE_DIR", platformdirs.user_state_path("glmtui"))


def restrict_umask() -> None:
    """Lets no file or folder of this process, or of what it starts, be for others to write.

    The umask may allow that; the bit of the group stays as it is, for folders that a group shares.
    """
    os.umask(os.umask(0o077) | 0o002)


def _folder(variable: str, usual: Path) -> Path:
    moved = os.environ.get(variable)
    return Path(moved).expanduser() if moved else usual
