"""Rescue and export: folders that fail or hang do not delay them for long."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from glmtui.chat import Conversation, Message
from glmtui.errors import StoreError
from glmtui.system import durable_files
from glmtui.ui.session import export, rescue


def old_conversation() -> Conversation:
    talk = Conversation.new().add(Message("user", "Old question"))
    return talk.add(Message("assistant", "Old answer", finish_reason="stop"))


def test_each_place_is_tried_and_one_that_hangs_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / name for name in ("none", "hangs", "full", "good")]
    for folder in folders[1:]:
        folder.mkdir()
    sync = os.fsync

    def fsync(handle: int) -> None:
        path = str(Path(f"/proc/self/fd/{handle}").readlink())
        if "/hangs/" in path:
            threading.Event().wait()
        if "/full/" in path:
            raise OSError(28, "No space left on device")
        sync(handle)

    monkeypatch.setattr(durable_files.os, "fsync", fsync)
    monkeypatch.setattr(rescue, "_folders", lambda: iter(folders))
    monkeypatch.setattr(rescue, "FOLDER_SECONDS", 0.2)
    monkeypatch.setenv("GLMTUI_STATE_DIR", str(tmp_path / "state"))
    talks = [old_conversation(), old_conversation()]
    began = time.monotonic()
    messages = rescue.rescue(talks)
    assert time.monotonic() - began < 1  # the one that hangs is waited for once
    assert all(str(tmp_path / "good") in line for line in messages)
    assert len(list((tmp_path / "good").glob("*/*.toml"))) == 2
    assert list((tmp_path / "full").iterdir()) == []
    monkeypatch.setattr(rescue, "_folders", lambda: iter(folders[:1]))
    assert "in any folder" in rescue.rescue(talks[:1])[0]


def test_an_export_to_a_disk_that_hangs_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    sync = os.fsync
    monkeypatch.setattr(durable_files.os, "fsync", lambda handle: gate.wait(10) and sync(handle))
    monkeypatch.setattr(export, "WRITE_SECONDS", 0.1)
    with pytest.raises(StoreError, match=os.strerror(errno.ETIMEDOUT)):
        export.export(old_conversation(), tmp_path / "file.md")
    gate.set()
