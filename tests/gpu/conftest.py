"""Tests of what only an NVIDIA GPU can show; skipped elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # what the other tests share


@pytest.fixture
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    return torch.device("cuda", 0)
