"""What tests of the loader load, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glmtui.engine import LoadOptions, load_model
from glmtui.engine.runtime.model_runner import LoadedModel

PROMPT_IDS = [5, 17, 3, 99, 42, 7]


def load_on_cpu(folder: Path, dtype: str = "float32", **options: Any) -> LoadedModel:
    return load_model(str(folder), LoadOptions(device="cpu", dtype=dtype, **options))
