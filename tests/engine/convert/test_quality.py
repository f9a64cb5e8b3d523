"""Quantising the embedded model costs next to nothing: the numbers that `quality.py` prints.

It quantises 106 million weights a few times over, so it runs where GLMTUI_SLOW_TESTS is set.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from glmtui.engine.catalog.registry import QUANTS
from support.quality import TEXT, WAYS, Subject
from support.quality import subject as load_subject

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(
        "GLMTUI_SLOW_TESTS" not in os.environ, reason="GLMTUI_SLOW_TESTS is not set"
    ),
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def subject(smollm2: Path) -> Subject:
    return load_subject(str(smollm2), TEXT.read_text("utf-8")[:2400])


def test_the_ways_that_are_measured_hold_what_is_offered() -> None:
    assert {(quant.bits, quant.group) for quant in QUANTS.values()} <= set(WAYS.values())


def test_int8_and_int4_change_perplexity_by_little(subject: Subject) -> None:
    base = subject.perplexity()
    for key, most in (("int8", 0.01), ("int4", 0.001)):
        cost = subject.cost(QUANTS[key].bits, QUANTS[key].group, renumbered=False)
        assert abs(cost.perplexity / base - 1) < most, key
    assert subject.perplexity() == base


def test_knowing_which_columns_matter_spares_int4_most_of_its_cost(subject: Subject) -> None:
    base = subject.perplexity()
    plain, informed = (
        subject.cost(4, 32, renumbered=True, informed=informed).perplexity / base - 1
        for informed in (False, True)
    )
    assert plain > 0.15
    assert informed < min(0.12, plain / 2)


def test_no_layer_is_further_off_than_its_bits_explain(subject: Subject) -> None:
    eight = subject.cost(8, None, renumbered=True)
    four = subject.cost(4, 32, renumbered=True)
    assert set(eight.errors) == {"qkv", "out", "gate_up", "down"}
    assert max(eight.errors.values()) < 0.012
    assert max(four.errors.values()) < 0.1
