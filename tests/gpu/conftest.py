"""Tests of what only an NVIDIA GPU can show; skipped elsewhere."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    return torch.device("cuda", 0)
