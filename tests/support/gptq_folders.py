"""Checkpoints that GPTQ tools wrote."""

from __future__ import annotations

from support import TESTS

MADE_BY_A_TOOL = TESTS / "goldens" / "gptq"
