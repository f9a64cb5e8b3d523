"""``glmtui doctor --bundle``: a report to attach to a bug, without private data.

Contains the results of doctor, the names of changed settings and the ends of the log files. User
and host names, the home folder, addresses and keys are replaced. Conversations are not read.
"""

from __future__ import annotations

import getpass
import os
import platform
import re
import socket
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from glmtui import __version__
from glmtui.cli.doctor import CheckResult
from glmtui.config import SETTINGS, Settings
from glmtui.errors import StoreError
from glmtui.language import _
from glmtui.net.addresses import redact_credentials
from glmtui.system import paths
from glmtui.system.durable_files import create_file, encode_utf8

LOG_BYTES = 64_000  # bytes from the end of each log file
LIBRARIES = ("textual", "torch", "transformers", "tokenizers", "safetensors", "httpx")
_KEYS = re.compile(
    r"\b(?:hf_|sk-|ghp_|github_pat_|glpat-|xox[a-z]-|AKIA)[\w-]{8,}"
    r"|(?i:bearer|basic) +[\w.~+/=-]{8,}"
    r"|(?i:(?:token|key|secret|password)\w*[\"']?\s*[:=]\s*[\"']?)[^\s\"',;]+"
)
_HOST_OF_URL = re.compile(r"\b([a-z][a-z0-9+.-]*://)[^/\s\"'<>)]+")
_ADDRESS = re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b|\b[\w.+-]+@[\w-]+\.[\w.-]+\b")


def write_report(path: Path, results: Iterable[CheckResult], settings: Settings) -> None:
    """Writes the report to a new file that only its owner can read. Raises StoreError."""
    defaults = Settings()
    changed = [
        s.full_name for s in SETTINGS if getattr(settings, s.name) != getattr(defaults, s.name)
    ]
    parts = [
        f"glmtui {__version__}, {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        f"{platform.platform()}, Python {platform.python_version()}",
        ", ".join(f"{name} {_version(name)}" for name in LIBRARIES),
        "== doctor",
        *(result.text for result in results),
        "== changed settings (without their values)",
        ", ".join(changed) or "none",
    ]
    for log in sorted(paths.state_dir().glob("*.log")):
        parts += [f"== {log.name}", _end_of(log)]
    text = redact("\n".join(parts) + "\n")
    try:
        create_file(path, encode_utf8(text))
    except OSError as error:
        raise StoreError(
            _("Could not write {path}: {reason}").format(path=path, reason=error.strerror)
        ) from error


def redact(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """Replaces keys, hosts, addresses, the home folder and the user's name in `text`."""
    for value in sorted(_secrets(environ), key=len, reverse=True):
        text = text.replace(value, "[key]")
    text = _KEYS.sub("[key]", redact_credentials(text))
    text = _HOST_OF_URL.sub(r"\1[host]", text)
    text = _ADDRESS.sub("[address]", text)
    text = text.replace(str(Path.home()), "~")
    for name, replacement in {_user(): "[user]", socket.gethostname(): "[host]"}.items():
        if len(name) > 2:
            text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", replacement, text)
    return text


def _secrets(environ: Mapping[str, str]) -> set[str]:
    """Values of environment variables whose names suggest a key or password."""
    names = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
    return {value for name, value in environ.items() if names.search(name) and len(value) >= 8}


def _end_of(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError as error:
        return f"could not be read: {error.strerror}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # the uid has no name, as in some containers
        return ""


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
