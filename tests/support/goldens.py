"""Golden models and the released tokenizer files: where they are, and how they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glmtui.engine import load_model
from glmtui.engine.model_info import LoadOptions
from support import TESTS

GOLDEN_MODELS = TESTS / "goldens" / "models"
# A larger set beside the repository. It is not part of it, so it may be missing.
SHARED = TESTS.resolve().parents[1] / "shared"
SHARED_MODELS = SHARED / "fixtures" / "models"
# Largest absolute difference of a logit in float32, by the first two letters of the folder's name.
LOGIT_TOLERANCE = {"v1": 2e-3, "v2": 1e-4, "v3": 1e-4, "gl": 1e-4}
NO_SHARED_MODELS = "the shared golden models are not at ../shared"


def load_float32(folder: Path) -> Any:
    """The model in a folder, in float32 on the CPU, with quantised weights dequantised."""
    return load_model(str(folder), LoadOptions(device="cpu", dtype="float32", quant=None))


def read_shared_json(*parts: str) -> Any:
    """A JSON file of the shared set; skips the test where the set is missing."""
    path = SHARED.joinpath("fixtures", *parts)
    if not path.is_file():
        pytest.skip(NO_SHARED_MODELS)
    return json.loads(path.read_bytes())


def released_tokenizer(*parts: str) -> Path:
    """The path of a released tokenizer file; skips the test where it is missing."""
    path = SHARED.joinpath("tokenizers", *parts)
    if not path.is_file():
        pytest.skip("the released tokenizer files are not at ../shared")
    return path
