"""A hub cache that is read-only."""

from __future__ import annotations

from pathlib import Path

from glmtui.engine.pull import pull
from support.fake_hub import Hub
from support.hub_repository import REPO


def test_a_cache_that_has_all_is_not_written_to(hub: Hub, tmp_path: Path) -> None:
    def state() -> dict[str, tuple[int, int]]:
        found = {path: path.lstat() for path in (tmp_path / "hub").rglob("*")}
        return {str(path): (status.st_ino, status.st_mtime_ns) for path, status in found.items()}

    pull(REPO, endpoint=hub.url)
    before = state()
    pull(REPO, endpoint=hub.url)
    assert state() == before
