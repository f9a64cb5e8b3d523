"""Caches of several conversations: which is gone on with, what is kept, what gives way."""

from __future__ import annotations

import pytest
import torch

from glmtui.chat import SamplingParams
from glmtui.engine.nn.kv_cache import KVCache
from glmtui.engine.runtime import prefix_cache
from glmtui.engine.runtime.prefix_cache import PrefixCache, cache_budget
from support.goldens import GOLDEN_MODELS, load_float32
from support.toy_decoder import CPU, Counter, toy

PLENTY = 10**9


@pytest.fixture(autouse=True)
def _small_branches_are_worth_keeping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_cache, "WORTH_KEEPING", 8)
    monkeypatch.setattr("glmtui.engine.nn.kv_cache.BLOCK", 16)


def shelf(budget: int = PLENTY) -> PrefixCache:
    return PrefixCache(Counter(), 64, torch.float32, CPU, budget)


def read(some: PrefixCache, *ids: int) -> int:
    """Reads a prompt; returns how much of it was there already."""
    cache = some.open(ids)
    reused = cache.offset
    new = torch.tensor(ids[reused:], dtype=torch.float32)[None, None, :, None]
    cache.update(0, new, new)
    cache.advance(len(ids) - reused)
    some.note(ids[reused:])
    assert held(cache) == list(ids)
    return reused


def held(cache: KVCache) -> list[int]:
    ids: list[int] = cache.keys[0][0, 0, : cache.offset, 0].int().tolist()
    return ids


ONE, OTHER = tuple(range(100, 112)), tuple(range(200, 212))


def test_a_conversation_is_gone_on_with_after_another_one() -> None:
    some = shelf()
    assert read(some, 1, 2, *ONE) == 0
    assert read(some, 1, 2, *OTHER) == 2  # the system prompt, copied
    assert len(some) == 2
    for _ in range(2):
        assert read(some, 1, 2, *ONE, 5, 6) >= 14
        assert read(some, 1, 2, *OTHER, 7, 8) >= 14
    assert len(some) == 2


def test_the_same_prompt_again_leaves_its_last_id_to_be_read() -> None:
    some = shelf()
    read(some, *ONE)
    assert read(some, *ONE) == len(ONE) - 1
    assert len(some) == 1


def test_a_short_branch_is_given_up_and_a_long_one_kept() -> None:
    some = shelf()
    read(some, *ONE, 1, 2, 3)
    assert read(some, *ONE, 4) == len(ONE)  # another reply
    assert len(some) == 1
    assert read(some, *ONE[:3], 9) == 3  # an early question edited
    assert len(some) == 2
    assert read(some, *ONE, 4, 5) == len(ONE) + 1  # and back
    # a branch shorter than what it shares is not worth a copy of that
    long = [*range(20), *ONE]
    read(some, *long)
    assert read(some, *long[:20], 7) == 20
    assert len(some) == 3


def test_of_two_that_serve_alike_the_later_one_is_taken() -> None:
    some = shelf()
    read(some, 1, *ONE)
    read(some, 1, *OTHER)
    read(some, 1, 9)
    assert held(some.cache) == [1, 9]
    assert read(some, 1, *OTHER, 3) == 1 + len(OTHER)


def test_the_least_recently_used_gives_way() -> None:
    full = KVCache(1, 1, 1, 16, dtype=torch.float32, device=CPU).nbytes
    some = shelf(2 * full)
    read(some, *ONE)
    read(some, *OTHER)
    read(some, *ONE)
    assert some.nbytes == 2 * full
    read(some, *range(12))  # a third
    assert len(some) == 2
    assert read(some, *ONE) == len(ONE) - 1
    assert read(some, *OTHER) == 0


def test_what_grows_pushes_others_out_and_stays_itself() -> None:
    full = KVCache(1, 1, 1, 16, dtype=torch.float32, device=CPU).nbytes
    some = shelf(2 * full)
    read(some, *ONE)
    read(some, *OTHER)
    assert len(some) == 2
    read(some, *OTHER, *range(30))
    assert len(some) == 1
    assert some.nbytes > 2 * full


def test_a_copy_is_independent_and_no_larger_than_it_needs() -> None:
    some = shelf()
    read(some, *range(50))
    whole = some.cache
    assert read(some, *range(20), 99) == 20
    assert held(whole) == list(range(50))
    assert held(some.cache) == [*range(20), 99]
    assert some.cache.nbytes == 2 * 16 * 2 * 4  # two blocks of keys and values


def test_going_back_forgets_the_last_ids() -> None:
    some = shelf()
    read(some, *ONE)
    some.rewind(3)
    assert held(some.cache) == list(ONE[:-3])
    assert read(some, *ONE) == len(ONE) - 3


def test_ids_noted_for_a_failed_step_do_not_count() -> None:
    some = shelf()
    read(some, *ONE)
    some.note([1, 2])
    assert read(some, *ONE, 1, 2) == len(ONE)


def test_the_budget_is_what_was_asked_for_or_a_share_of_what_is_free() -> None:
    assert cache_budget(1.5, CPU) == 1_500_000_000
    assert cache_budget(0, CPU) == 0
    assert 0 < cache_budget(None, CPU) <= prefix_cache.MOST_ON_CPU


def test_forgetting_frees_them_all() -> None:
    model = toy()
    for prompt in (ONE, OTHER):
        list(model.stream_ids(prompt, SamplingParams(temperature=0, max_new_tokens=1)).ids())
    assert len(model._caches) == 2
    model.forget()
    assert len(model._caches) == 0


@pytest.mark.parametrize("name", ["v1_twin_orig", "v2_32k_tiny", "glm4_tiny"])
def test_switching_changes_no_reply(name: str) -> None:
    """Three conversations in turn, edited and gone back to, against nothing reused at all."""
    model = load_float32(GOLDEN_MODELS / name)
    marks = getattr(model.model.config, "markers", None)
    end = (marks.gmask, marks.sop) if marks else ()
    greedy = SamplingParams(temperature=0, max_new_tokens=4)
    first = getattr(model.model.config, "skipped_rows", 0)  # rows of image tokens are not in memory
    system = [first + i for i in (5, 6, 7)]
    talks = [[first + 20 + 10 * n + i for i in range(9)] for n in range(3)]
    prompts = [[*system, *talk, *extra, *end] for extra in ([], system) for talk in talks]
    prompts += [prompts[0], [*prompts[3][:6], *end], prompts[3]]
    replies, reused = [], 0
    for prompt in prompts:
        stream = model.stream_ids(prompt, greedy)
        replies.append(list(stream.ids()))
        reused += stream.result.stats.reused_tokens
    assert reused > 0
    for prompt, reply in zip(prompts, replies, strict=True):
        model.forget()
        assert list(model.stream_ids(prompt, greedy).ids()) == reply


def test_a_long_prompt_takes_whole_blocks_so_that_its_reply_has_room() -> None:
    cache = KVCache(1, 1, 1, 64, dtype=torch.float32, device=CPU)
    for tokens, room in ((10, 16), (20, 32), (3, 48), (30, 64)):
        read = torch.zeros(1, 1, tokens, 1)
        cache.update(0, read, read)
        cache.advance(tokens)
        assert cache.room == room
    cache = KVCache(1, 1, 1, 100, dtype=torch.float32, device=CPU)
    read = torch.zeros(1, 1, 46, 1)
    cache.update(0, read, read)
    assert cache.room == 48


def test_a_prompt_gets_its_room_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    some = shelf()
    rooms = []
    for length in (20, 40, 64):  # the last fills the context
        cache = some.open(range(1000 * length, 1000 * length + length))
        rooms.append(cache.room)
        kept = cache.keys[0]
        read = torch.zeros(1, 1, length - 1, 1)
        cache.update(0, read, read)
        assert cache.keys[0] is kept
    assert rooms == [32, 48, 64]
