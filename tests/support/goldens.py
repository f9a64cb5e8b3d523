"""Where golden numbers and real tokenizer files lie, and how they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glmtui.engine import load_model
from glmtui.engine.model_info import LoadOptions
from support import TESTS

GOLDEN = TESTS / "goldens" / "models"
# lent beside the repository; not part of it, and not everywhere
SHARED = TESTS.resolve().parents[1] / "shared"
TOLERANCE = {"v1": 2e-3, "v2": 1e-4, "v3": 1e-4, "gl": 1e-4}  # by the beginning of a folder's name


def load(folder: Path) -> Any:
    """The model in a folder, in float32 on the CPU, its quantised weights unpacked."""
    return load_model(str(folder), LoadOptions(device="cpu", dtype="float32", quant=None))


def read_json(*parts: str) -> Any:
    """One of the shared set's JSON files; the test is skipped where the set is not there."""
    path = SHARED.joinpath("fixtures", *parts)
    if not path.is_file():
        pytest.skip("the golden set lies in ../shared, which is not here")
    return json.loads(path.read_bytes())


def tokenizer_file(*parts: str) -> Path:
    """A released tokenizer file; the test is skipped where they are not there."""
    path = SHARED.joinpath("tokenizers", *parts)
    if not path.is_file():
        pytest.skip("the released tokenizer files lie in ../shared, which is not here")
    return path
