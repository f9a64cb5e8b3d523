"""generation_config.json: recommended sampling parameters, in and out of range."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from glmtui.chat import SamplingParams
from glmtui.engine.runtime.sampling import make_sampler
from glmtui.engine.tokenization.generation_config import read_sampling_defaults


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"temperature": 0.2, "top_k": 40, "do_sample": true, "top_p": 1}', (0.2, 40, True, 1)),
        ('{"temperature": 0, "top_k": 0, "do_sample": false, "top_p": 0}', (0, 0, False, 0)),
        ('{"temperature": -1.0, "top_k": -1, "top_p": 1.5}', (0, 0, None, 1)),
        ('{"temperature": 1e-9, "top_k": 50.0, "do_sample": null}', (0, 50, None, None)),
        ('{"temperature": null, "top_k": null, "top_p": null}', (None, None, None, None)),
    ],
)
def test_sampling_defaults_have_the_meaning_of_other_programs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str, expected: tuple[object, ...]
) -> None:
    (tmp_path / "generation_config.json").write_text(content)
    params = read_sampling_defaults(tmp_path)
    assert (params.temperature, params.top_k, params.do_sample, params.top_p) == expected
    assert type(params.top_k) in (int, type(None))
    assert not caplog.records
    logits = torch.tensor([0.1, 3.0, 0.2])
    if params.greedy or params.top_p == 0:
        assert [make_sampler(params)(logits, [0]) for _ in range(9)] == [1] * 9
    else:
        assert 0 <= make_sampler(params)(logits, [0]) < 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("repetition_penalty", "0"),
        ("repetition_penalty", "-1.1"),
        ("repetition_penalty", "1e-300"),
        ("top_p", "-0.5"),
        ("top_p", "NaN"),
        ("top_k", '"many"'),
        ("top_k", "40.5"),
        ("top_k", "Infinity"),
        ("top_k", "true"),
        ("temperature", "1e400"),
        ("temperature", "[1]"),
        ("do_sample", '"yes"'),
    ],
)
def test_invalid_sampling_defaults_are_ignored_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, value: str
) -> None:
    (tmp_path / "generation_config.json").write_text(f'{{"{name}": {value}, "max_length": 20}}')
    assert read_sampling_defaults(tmp_path) == SamplingParams()
    (record,) = caplog.records
    assert name in record.getMessage()
    assert "ignored" in record.getMessage()
