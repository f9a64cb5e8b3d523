"""Sampling parameters: defaults, greedy decoding, and the settings of the same names."""

from __future__ import annotations

from typing import get_type_hints

from glmtui.chat import SamplingParams
from glmtui.config.settings import SAMPLING_FIELDS, Settings


def test_defaults_replace_none() -> None:
    params = SamplingParams(temperature=0.0, do_sample=False, top_k=0)
    defaults = SamplingParams(temperature=0.8, top_p=0.9, do_sample=True)
    assert params.with_defaults(defaults) == SamplingParams(
        temperature=0.0, top_k=0, top_p=0.9, do_sample=False
    )
    assert SamplingParams().with_defaults(defaults) == defaults


def test_greedy() -> None:
    assert SamplingParams(temperature=0).greedy
    assert SamplingParams(temperature=1.0, do_sample=False).greedy
    assert not SamplingParams(temperature=1.0).greedy
    assert not SamplingParams().greedy


def test_the_settings_have_the_same_names_and_types() -> None:
    hints = get_type_hints(Settings)
    settings = {row.name: hints[row.name] for row in SAMPLING_FIELDS}
    assert get_type_hints(SamplingParams) == settings
