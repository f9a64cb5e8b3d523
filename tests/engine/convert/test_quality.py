"""Quantising the embedded model costs little quality; see support/quality.py.

Quantises 106 million weights several times, so it runs only if GLMTUI_SLOW_TESTS is set.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from glmtui.engine.catalog.quants import QUANTS
from support.quality import QUANTISATIONS, TEXT, QualityTest, load_quality_test

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(
        "GLMTUI_SLOW_TESTS" not in os.environ, reason="GLMTUI_SLOW_TESTS is not set"
    ),
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def quality(smollm2: Path) -> QualityTest:
    return load_quality_test(str(smollm2), TEXT.read_text("utf-8")[:2400])


def test_all_offered_quantisations_are_measured() -> None:
    assert {(quant.bits, quant.group) for quant in QUANTS.values()} <= set(QUANTISATIONS.values())


def test_int8_and_int4_change_perplexity_by_little(quality: QualityTest) -> None:
    base = quality.perplexity()
    for key, most in (("int8", 0.01), ("int4", 0.001)):
        cost = quality.cost(QUANTS[key].bits, QUANTS[key].group, shuffled=False)
        assert abs(cost.perplexity / base - 1) < most, key
    assert quality.perplexity() == base


def test_column_importance_saves_most_of_the_cost_of_int4(quality: QualityTest) -> None:
    base = quality.perplexity()
    plain, informed = (
        quality.cost(4, 32, shuffled=True, informed=informed).perplexity / base - 1
        for informed in (False, True)
    )
    assert plain > 0.15
    assert informed < min(0.12, plain / 2)


def test_layer_errors_are_as_small_as_the_bits_allow(quality: QualityTest) -> None:
    eight = quality.cost(8, None, shuffled=True)
    four = quality.cost(4, 32, shuffled=True)
    assert set(eight.errors) == {"qkv", "out", "gate_up", "down"}
    assert max(eight.errors.values()) < 0.012
    assert max(four.errors.values()) < 0.1
