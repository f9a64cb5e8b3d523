"""The fuzz targets with their seeds, some mutations of them, and earlier findings."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest
from fuzz_folder import clear
from targets import TARGETS, meet

MOST_SECONDS = 10.0  # of CPU time; the fuzzer itself allows one

# Inputs that once caused a bug: the target and the bytes.
FOUND: tuple[tuple[str, bytes], ...] = (
    ("server refusal", b'\0unsupported "stream"'),  # retried without end
    ("model", b"\x06\x1d\x02M"),  # a context shorter than the prompt
    ("model", b"\x03\xd7\xec%"),  # a context whose position table takes seconds
)


@pytest.fixture(autouse=True, scope="module")
def cleared() -> Iterator[None]:
    yield
    clear()


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_come_in(name: str) -> None:
    """Seeds must get past validation, or the fuzzer would only test that."""
    taken = [meet(TARGETS[name], seed) for seed in TARGETS[name].seeds().values()]
    assert None in taken


@pytest.mark.parametrize("name", TARGETS)
def test_changed_seeds_raise_only_our_errors(name: str) -> None:
    target, rng = TARGETS[name], random.Random(name)
    seeds = list(target.seeds().values())
    errors = 0
    for _ in range(target.changes):
        data = mutate(rng.choice(seeds), target.words, rng)
        began = time.process_time()
        errors += meet(target, data) is not None
        assert time.process_time() - began < MOST_SECONDS, data
    if name not in ("settings", "tools"):  # these report a list of problems instead of errors
        assert errors


def mutate(seed: bytes, words: tuple[bytes, ...], rng: random.Random) -> bytes:
    """A seed with a few bytes mutate, removed, doubled or replaced by a word."""
    data = bytearray(seed)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, size = rng.randrange(len(data) + 1), rng.choice((1, 1, 4, 40))
        piece = bytes(data[at : at + size])
        other = bytes(rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256))) for _ in piece)
        data[at : at + size] = rng.choice((other, b"", piece * 2, rng.choice(words)))
    return bytes(data)


def test_what_was_found_once() -> None:
    for name, data in FOUND:
        meet(TARGETS[name], data)
