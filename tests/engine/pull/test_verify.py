"""glmtui verify: the files of a pulled model against what was noted of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glmtui.cli.main import main
from glmtui.engine.pull import pull
from support.checkpoints import llama_files, write_folder, write_gguf


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A GGUF file that was pulled as "small"."""
    for name in ("DATA", "CONFIG", "CACHE", "STATE"):
        monkeypatch.setenv(f"GLMTUI_{name}_DIR", str(tmp_path / name))
    write_gguf(tmp_path / "small.gguf")
    return pull(str(tmp_path / "small.gguf"), on_progress=lambda progress: None).path


def test_a_model_as_it_was_pulled_is_sound(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "small"]) == 0
    noted = json.loads((folder / "manifest.json").read_text())["files"]
    assert capsys.readouterr().out == (
        f"small is intact: {len(noted)} files checked by checksum, 0 by size.\n"
    )


@pytest.mark.parametrize("damage", ["bit", "shorter", "gone"])
def test_damage_is_named(folder: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    path = folder / "tokenizer.json"
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1] + (b"\x00" if damage == "bit" else b""))
    assert main(["verify", "small"]) == 1
    said = capsys.readouterr().err
    assert "tokenizer.json" in said
    assert "glmtui pull small" in said


def test_a_manifest_cannot_lead_elsewhere(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note = folder / "manifest.json"
    content = json.loads(note.read_text())
    content["files"] = {"../../../etc/passwd": {"size": 1}}
    note.write_text(json.dumps(content))
    assert main(["verify", "small"]) == 1
    assert "outside its folder" in capsys.readouterr().err


def test_what_was_not_pulled_has_no_checksums(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_folder(tmp_path / "other", llama_files())
    assert main(["verify", str(other)]) == 2
    assert "checksums are unknown" in capsys.readouterr().err
    assert main(["verify", "http://127.0.0.1:9/v1"]) == 2
