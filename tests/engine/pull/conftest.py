"""A fake hub with one repository."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest

from glmtui.engine.pull import fetch
from support.fake_hub import Hub, hub_server
from support.hub_repository import REPO
from support.tiny_llama import llama_files


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with REPO; the caches are empty."""
    monkeypatch.setenv("GLMTUI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("HF_ENDPOINT", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(fetch, "FIRST_WAIT_SECONDS", 0.0)
    with hub_server() as hub:
        hub.repos[REPO] = llama_files()
        yield hub
