"""Checkpoints written by GPTQModel, with the logits that it computes."""

from __future__ import annotations

from support import TESTS

GPTQ_FOLDERS = TESTS / "goldens" / "gptq"
