"""KV caches of several conversations: which one a prompt continues, and which are evicted."""

from __future__ import annotations

import pytest
import torch

from glmtui.chat import SamplingParams
from glmtui.engine.nn.kv_cache import KVCache
from glmtui.engine.runtime import prefix_cache
from glmtui.engine.runtime.prefix_cache import PrefixCache, cache_budget
from support.goldens import GOLDEN, load
from support.toy_decoder import CPU, CountingDecoder, toy_model

PLENTY = 10**9


@pytest.fixture(autouse=True)
def _small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_cache, "MIN_BRANCH", 8)
    monkeypatch.setattr("glmtui.engine.nn.kv_cache.BLOCK_TOKENS", 16)


def prefix_cache_of(budget: int = PLENTY) -> PrefixCache:
    return PrefixCache(CountingDecoder(), 64, torch.float32, CPU, budget)


def read_prompt(caches: PrefixCache, *ids: int) -> int:
    """Reads a prompt; returns how many of its ids were cached."""
    cache = caches.open(ids)
    reused = cache.offset
    new = torch.tensor(ids[reused:], dtype=torch.float32)[None, None, :, None]
    cache.update(0, new, new)
    cache.advance(len(ids) - reused)
    caches.commit(ids[reused:])
    assert cached_ids(cache) == list(ids)
    return reused


def cached_ids(cache: KVCache) -> list[int]:
    ids: list[int] = cache.keys[0][0, 0, : cache.offset, 0].int().tolist()
    return ids


ONE, OTHER = tuple(range(100, 112)), tuple(range(200, 212))


def test_a_conversation_continues_after_another_one() -> None:
    caches = prefix_cache_of()
    assert read_prompt(caches, 1, 2, *ONE) == 0
    assert read_prompt(caches, 1, 2, *OTHER) == 2  # the system prompt, copied
    assert len(caches) == 2
    for _ in range(2):
        assert read_prompt(caches, 1, 2, *ONE, 5, 6) >= 14
        assert read_prompt(caches, 1, 2, *OTHER, 7, 8) >= 14
    assert len(caches) == 2


def test_the_same_prompt_again_reads_only_its_last_id() -> None:
    caches = prefix_cache_of()
    read_prompt(caches, *ONE)
    assert read_prompt(caches, *ONE) == len(ONE) - 1
    assert len(caches) == 1


def test_a_short_branch_is_cut_and_a_long_one_kept() -> None:
    caches = prefix_cache_of()
    read_prompt(caches, *ONE, 1, 2, 3)
    assert read_prompt(caches, *ONE, 4) == len(ONE)  # another reply
    assert len(caches) == 1
    assert read_prompt(caches, *ONE[:3], 9) == 3  # an early question edited
    assert len(caches) == 2
    assert read_prompt(caches, *ONE, 4, 5) == len(ONE) + 1  # and back
    # a branch shorter than what it shares is not worth a copy of that
    long = [*range(20), *ONE]
    read_prompt(caches, *long)
    assert read_prompt(caches, *long[:20], 7) == 20
    assert len(caches) == 3


def test_among_equals_the_most_recent_is_used() -> None:
    caches = prefix_cache_of()
    read_prompt(caches, 1, *ONE)
    read_prompt(caches, 1, *OTHER)
    read_prompt(caches, 1, 9)
    assert cached_ids(caches.cache) == [1, 9]
    assert read_prompt(caches, 1, *OTHER, 3) == 1 + len(OTHER)


def test_the_least_recently_used_is_evicted() -> None:
    full = KVCache(1, 1, 1, 16, dtype=torch.float32, device=CPU).nbytes
    caches = prefix_cache_of(2 * full)
    read_prompt(caches, *ONE)
    read_prompt(caches, *OTHER)
    read_prompt(caches, *ONE)
    assert caches.nbytes == 2 * full
    read_prompt(caches, *range(12))  # a third
    assert len(caches) == 2
    assert read_prompt(caches, *ONE) == len(ONE) - 1
    assert read_prompt(caches, *OTHER) == 0


def test_a_growing_cache_evicts_others_but_not_itself() -> None:
    full = KVCache(1, 1, 1, 16, dtype=torch.float32, device=CPU).nbytes
    caches = prefix_cache_of(2 * full)
    read_prompt(caches, *ONE)
    read_prompt(caches, *OTHER)
    assert len(caches) == 2
    read_prompt(caches, *OTHER, *range(30))
    assert len(caches) == 1
    assert caches.nbytes > 2 * full


def test_a_copy_is_independent_and_no_larger_than_it_needs() -> None:
    caches = prefix_cache_of()
    read_prompt(caches, *range(50))
    whole = caches.cache
    assert read_prompt(caches, *range(20), 99) == 20
    assert cached_ids(whole) == list(range(50))
    assert cached_ids(caches.cache) == [*range(20), 99]
    assert caches.cache.nbytes == 2 * 16 * 2 * 4  # two blocks of keys and values


def test_rewinding_removes_the_last_ids() -> None:
    caches = prefix_cache_of()
    read_prompt(caches, *ONE)
    caches.rewind(3)
    assert cached_ids(caches.cache) == list(ONE[:-3])
    assert read_prompt(caches, *ONE) == len(ONE) - 3


def test_ids_committed_for_a_failed_step_do_not_count() -> None:
    caches = prefix_cache_of()
    read_prompt(caches, *ONE)
    caches.commit([1, 2])
    assert read_prompt(caches, *ONE, 1, 2) == len(ONE)


def test_the_budget_is_the_setting_or_a_share_of_free_memory() -> None:
    assert cache_budget(1.5, CPU) == 1_500_000_000
    assert cache_budget(0, CPU) == 0
    assert 0 < cache_budget(None, CPU) <= prefix_cache.MAX_CPU_BYTES


def test_clearing_frees_all_caches() -> None:
    model = toy_model()
    for prompt in (ONE, OTHER):
        list(model.stream_ids(prompt, SamplingParams(temperature=0, max_new_tokens=1)).ids())
    assert len(model._prefix_cache) == 2
    model.clear_cache()
    assert len(model._prefix_cache) == 0


@pytest.mark.parametrize("name", ["v1_twin_orig", "v2_32k_tiny", "glm4_tiny"])
def test_switching_changes_no_reply(name: str) -> None:
    """Three conversations in turn, edited and returned to, compared with reading from the start."""
    model = load(GOLDEN / name)
    marks = getattr(model.model.config, "marks", None)
    end = (marks.gmask, marks.sop) if marks else ()
    greedy = SamplingParams(temperature=0, max_new_tokens=4)
    first = getattr(model.model.config, "cut", 0)  # rows of image tokens are not in memory
    system = [first + i for i in (5, 6, 7)]
    questions = [[first + 20 + 10 * n + i for i in range(9)] for n in range(3)]
    prompts = [
        [*system, *question, *extra, *end] for extra in ([], system) for question in questions
    ]
    prompts += [prompts[0], [*prompts[3][:6], *end], prompts[3]]
    replies, reused = [], 0
    for prompt in prompts:
        stream = model.stream_ids(prompt, greedy)
        replies.append(list(stream.ids()))
        reused += stream.result.stats.reused_tokens
    assert reused > 0
    for prompt, reply in zip(prompts, replies, strict=True):
        model.clear_cache()
        assert list(model.stream_ids(prompt, greedy).ids()) == reply


def test_a_long_prompt_takes_whole_blocks_so_that_its_reply_has_room() -> None:
    cache = KVCache(1, 1, 1, 64, dtype=torch.float32, device=CPU)
    for tokens, room in ((10, 16), (20, 32), (3, 48), (30, 64)):
        states = torch.zeros(1, 1, tokens, 1)
        cache.update(0, states, states)
        cache.advance(tokens)
        assert cache.allocated_tokens == room
    cache = KVCache(1, 1, 1, 100, dtype=torch.float32, device=CPU)
    states = torch.zeros(1, 1, 46, 1)
    cache.update(0, states, states)
    assert cache.allocated_tokens == 48


def test_a_prompt_allocates_its_cache_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    caches = prefix_cache_of()
    rooms = []
    for length in (20, 40, 64):  # the last fills the context
        cache = caches.open(range(1000 * length, 1000 * length + length))
        rooms.append(cache.allocated_tokens)
        keys = cache.keys[0]
        states = torch.zeros(1, 1, length - 1, 1)
        cache.update(0, states, states)
        assert cache.keys[0] is keys
    assert rooms == [32, 48, 64]
