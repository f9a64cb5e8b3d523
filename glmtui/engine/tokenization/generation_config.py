"""What generation_config.json says: the ids that end a reply, and sampling parameters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from glmtui.chat import SamplingParams
from glmtui.engine.catalog.model_folder import read_optional_object

MAX_NUMBER = 2**31  # magnitude of a sampling parameter; larger ones overflow an int32
MIN_TEMPERATURE = 1e-5  # logits divided by less overflow float32; the limit of vLLM
MIN_PENALTY, MAX_PENALTY = 0.01, 100.0  # a repetition penalty outside makes all logits useless

logger = logging.getLogger(__name__)


def read_generation_config(folder: Path) -> dict[str, Any]:
    """The content of generation_config.json; empty without the file. Raises BadCheckpoint."""
    return read_optional_object(folder / "generation_config.json")


def read_eos_ids(folder: Path) -> frozenset[int]:
    """The ids that end a reply by generation_config.json. Raises BadCheckpoint."""
    return eos_ids(read_generation_config(folder))


def eos_ids(config: object) -> frozenset[int]:
    """The eos_token_id of a config, which is one id or a list; empty if it is neither."""
    eos = config.get("eos_token_id") if isinstance(config, dict) else None
    ids = eos if isinstance(eos, list) else [eos]
    return frozenset(i for i in ids if isinstance(i, int) and not isinstance(i, bool))


def read_sampling_defaults(folder: Path) -> SamplingParams:
    """The sampling parameters that generation_config.json recommends.

    Values out of range have the meaning that they have in other programs, or are ignored with a
    warning: a temperature of 0 or less is greedy (llama.cpp); a top_k of 0 or -1 means all tokens
    (vLLM).
    """
    defaults: dict[str, Any] = {}
    for name, value in read_generation_config(folder).items():
        if name not in PARSERS or value is None:
            continue
        parsed = PARSERS[name](value)
        if parsed is None:
            path = folder / "generation_config.json"
            logger.warning("%s: %s is %.40r, which is ignored", path, name, value)
        else:
            defaults[name] = parsed
    return SamplingParams(**defaults)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if abs(value) < MAX_NUMBER else None  # False for NaN


def _temperature(value: object) -> float | None:
    number = _number(value)
    return None if number is None else 0 if number < MIN_TEMPERATURE else number


def _top_k(value: object) -> int | None:
    number = _number(value)
    return None if number is None or number != int(number) else max(int(number), 0)


def _top_p(value: object) -> float | None:
    number = _number(value)
    return None if number is None or number < 0 else min(number, 1)


def _repetition_penalty(value: object) -> float | None:
    number = _number(value)
    return None if number is None or not MIN_PENALTY <= number <= MAX_PENALTY else number


# Each returns None for a value that cannot be used.
PARSERS: Mapping[str, Callable[[object], float | None]] = {
    "temperature": _temperature,
    "top_k": _top_k,
    "top_p": _top_p,
    "repetition_penalty": _repetition_penalty,
    "do_sample": lambda value: value if isinstance(value, bool) else None,
}
