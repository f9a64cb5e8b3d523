"""What a bench does and how it reckons, with engines that only pretend to compute."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from rich.cells import cell_len

from glmtui.cli import bench_report
from glmtui.engine.bench.plan import (
    QUESTION,
    REPLY,
    BenchPlan,
    BenchResult,
    BenchTarget,
    EngineName,
    EngineResult,
    EngineStart,
    Measurement,
    TimedReply,
    fitting_contexts,
    fitting_turns,
    paired_ratio,
    reported_turns,
)
from glmtui.engine.bench.rounds import WARM_UP, BenchRun
from glmtui.engine.model_info import LoadOptions
from glmtui.errors import EngineError, UsageError

END = (7, 8)


@dataclass
class FakeEngine:
    """An engine of known speed: what it has not read yet, and each token, take their time."""

    start: EngineStart
    seconds_per_read: float
    seconds_per_token: float
    short_by: int = 0
    prompts: list[list[int]] = field(default_factory=list)
    read: list[int] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def load(self) -> EngineStart:
        return self.start

    def generate(self, prompt: Sequence[int], tokens: int) -> TimedReply:
        self.log.append(self.start.engine)
        self.prompts.append(list(prompt))
        kept = 0
        if self.start.reuses:
            end = len(self.start.prompt_end)
            same = [a == b for a, b in zip(self.read, prompt[: len(prompt) - end], strict=False)]
            kept = [*same, False].index(False)
        reply = [5] * (tokens - self.short_by)
        self.read = [*prompt[: len(prompt) - len(self.start.prompt_end)], *reply]
        first = self.seconds_per_read * (len(prompt) - kept)
        return TimedReply(first, self.seconds_per_token * (tokens - 1), tuple(reply))

    def peak_memory(self) -> int | None:
        return 3 * 10**9


def engine_start(engine: EngineName, *, reuses: bool = True, vocabulary: int = 1000) -> EngineStart:
    return EngineStart(
        engine=engine,
        device="cpu",
        dtype="bfloat16",
        quant="int4 g64",
        version="1.0, torch 9.9",
        reuses=reuses,
        load_seconds=0.5,
        context_length=4096,
        weight_bytes=2_000_000,
        step_bytes=1_000_000,
        kv_bytes_per_token=100,
        vocabulary=(10, vocabulary),
        prompt_end=END if engine == "glmtui" else (),
    )


def target(engine: EngineName) -> BenchTarget:
    return BenchTarget(engine, None, "smollm2", LoadOptions(), threads=2)


def measured(*engines: FakeEngine, rounds: int = 2, tokens: int = 16) -> BenchResult:
    bench = BenchRun(
        BenchPlan(tuple(target(p.start.engine) for p in engines), rounds, tokens), print
    )
    for engine in engines:
        bench.begin(target(engine.start.engine), lambda target, p=engine: p)
    bench.measure(lambda: 1e9)
    return bench.result


@pytest.fixture
def ours() -> FakeEngine:
    return FakeEngine(engine_start("glmtui"), 0.001, 0.01)


@pytest.fixture
def theirs() -> FakeEngine:
    return FakeEngine(engine_start("transformers", reuses=False), 0.002, 0.05)


@pytest.fixture
def result(ours: FakeEngine, theirs: FakeEngine) -> BenchResult:
    llama = FakeEngine(engine_start("llama-cpp"), 0.003, 0.008)
    return measured(ours, theirs, llama)


# ---- arithmetic


def test_contexts_are_those_that_fit() -> None:
    assert fitting_contexts(8192, 64, 1) == [1, 512, 2048]
    assert fitting_contexts(2048, 64, 2) == [2, 512, 1984]
    assert fitting_contexts(256, 2, 1) == [1, 254]
    assert fitting_contexts(10, 64, 2) == [2]


def test_turns_are_those_that_fit() -> None:
    assert fitting_turns(8192, 0) == 20
    assert fitting_turns(3 * (QUESTION + REPLY) + 2, 2) == 3
    assert fitting_turns(3 * (QUESTION + REPLY) + 1, 2) == 2
    assert reported_turns(range(1, 21)) == [1, 5, 10, 20]
    assert reported_turns(range(1, 8)) == [1, 5, 7]
    assert reported_turns(range(1, 1)) == []


def test_a_ratio_is_taken_within_rounds() -> None:
    # the second round ran on a machine half as fast; the ratio of medians would be 3
    assert paired_ratio([10, 5, 12], [5, 2.5, 4]) == 2
    assert paired_ratio([1.0], [0.0]) is None


def test_rates_times_and_ratios(result: BenchResult) -> None:
    assert result.ours.median(Measurement("prefill", 512)) == pytest.approx(1000)
    assert result.ours.median(Measurement("decode", 2048)) == pytest.approx(100)
    assert result.ours.median(Measurement("decode", 2)) == pytest.approx(100)  # the shortest prompt
    assert Measurement("prefill", 2) not in result.measurements
    peer = result.engines[1]
    assert result.ratio(peer, Measurement("prefill", 512)) == pytest.approx(2)
    assert result.ratio(peer, Measurement("decode", 512)) == pytest.approx(5)
    # a time is better when it is less: they read all of 20 turns, we read the last question
    turn = result.ratio(peer, Measurement("turn", 20))
    assert turn == pytest.approx(2 * (20 * QUESTION + 19 * REPLY + 2) / (QUESTION + 2))
    assert result.ratio(peer, Measurement("reread", 20)) is None


def test_a_conversation_goes_on_where_one_that_is_read_anew_does_not(result: BenchResult) -> None:
    times = {turn: result.ours.median(Measurement("turn", turn)) for turn in (1, 5, 10, 20)}
    assert times == pytest.approx(dict.fromkeys(times, 0.001 * (QUESTION + 2)))
    anew = result.ours.median(Measurement("reread", 20))
    assert anew == pytest.approx(0.001 * result.prompt_tokens[20])
    assert result.prompt_tokens[20] == 20 * QUESTION + 19 * REPLY + 2


def test_bandwidth_is_what_a_token_reads(result: BenchResult) -> None:
    # 100 tokens/s, each 1 MB of weights and a KV cache of 512 + 8 tokens
    work = Measurement("decode", 512)
    assert result.bandwidth(work) == pytest.approx(100 * (1e6 + 520 * 100))
    assert result.share_of_copy(work) == pytest.approx(0.1052)
    assert result.bandwidth(Measurement("prefill", 512)) is None
    result.ours.start = replace(result.ours.start, step_bytes=None)
    assert result.share_of_copy(work) is None


# ---- the order of work


def test_engines_take_turns_and_everything_is_done_once_before(
    ours: FakeEngine, theirs: FakeEngine
) -> None:
    theirs.log = ours.log
    result = measured(ours, theirs, rounds=2)
    warming = 1 + 2
    # three contexts in turn; then a conversation, and ours anew; the second round the other way
    first = ["glmtui", "transformers"] * 3 + ["glmtui"] * (20 + 4) + ["transformers"] * 4
    second = ["transformers", "glmtui"] * 3 + ["transformers"] * 4 + ["glmtui"] * (20 + 4)
    assert ours.log == ["glmtui"] * warming + ["transformers"] * warming + first + second
    assert all(len(samples) == 2 for samples in result.ours.samples.values())
    assert len(result.copy_bandwidths) == 2


def test_no_round_begins_once_enough_was_measured(ours: FakeEngine) -> None:
    bench = BenchRun(BenchPlan((target("glmtui"),), rounds=5, tokens=4, max_seconds=0), print)
    bench.begin(target("glmtui"), lambda target: ours)
    bench.measure(lambda: 1e9)
    assert bench.result.rounds == 1
    assert "one round (not 5, which would take too long)" in " ".join(
        bench_report.as_table(bench.result, 200).split()
    )


def test_prompts_are_the_same_for_all_and_new_to_them(ours: FakeEngine, theirs: FakeEngine) -> None:
    measured(ours, theirs, rounds=1)
    after = slice(3, 6)
    assert ours.prompts[after] == theirs.prompts[after]
    assert [len(prompt) for prompt in ours.prompts[after]] == [2, 512, 2048]
    assert all(tuple(prompt[-2:]) == END for prompt in ours.prompts)
    ids = {i for prompt in ours.prompts for i in prompt[:-2]}
    assert min(ids) == 5  # the replies'
    assert sorted(ids)[1] >= 10
    assert max(ids) < 1000
    beginnings = [tuple(prompt[:20]) for prompt in ours.prompts[after]]
    assert len(set(beginnings)) == 3


def test_a_reply_that_ends_early_is_no_measurement(ours: FakeEngine) -> None:
    ours.short_by = 1
    with pytest.raises(EngineError, match="15 of 16 tokens"):
        measured(ours)


def test_another_model_is_no_peer(ours: FakeEngine) -> None:
    other = FakeEngine(engine_start("llama-cpp", vocabulary=500), 1, 1)
    with pytest.raises(UsageError, match="500 tokens, not 1,000"):
        measured(ours, other)


def test_the_warm_up_is_short(ours: FakeEngine) -> None:
    said: list[int] = []
    generate = ours.generate

    def counted(prompt: Sequence[int], tokens: int) -> TimedReply:
        said.append(tokens)
        return generate(prompt, tokens)

    ours.generate = counted  # type: ignore[method-assign]
    measured(ours, tokens=64)
    assert said[:4] == [1, WARM_UP, WARM_UP, 64]


# ---- what it looks like


def test_the_table_fits_80_columns(result: BenchResult) -> None:
    result.plan = BenchPlan((replace(target("glmtui"), synthetic="chatglm3-6b"),), 5, 64)
    result.copy_bandwidths = result.copy_bandwidths[:1] * 5
    for width in (80, 200):
        lines = bench_report.as_table(result, width).splitlines()
        assert max(map(cell_len, lines)) <= 80
    text = "\n".join(lines)
    (row,) = (line for line in lines if line.startswith("decode at 512"))
    # rate, share of a copy, each peer's rate and how many times as fast we are
    assert " ".join(row.split()) == "decode at 512, tok/s 100 11% 20.0 5.00x 125 0.80x"
    for said in ("Medians of 5", "untimed reply", "1.0 GB/s", "2 CPU threads", "load average"):
        assert said in " ".join(text.split())


def test_json_has_every_sample_and_how_it_was_taken(result: BenchResult) -> None:
    found = json.loads(bench_report.as_json(result))
    assert found["threads"] == 2
    assert found["copy_bytes_per_second"] == 1e9
    assert [engine["engine"] for engine in found["engines"]] == [
        "glmtui",
        "transformers",
        "llama-cpp",
    ]
    assert found["engines"][0]["peak_memory"] == 3 * 10**9
    assert found["engines"][0]["quant"] == "int4 g64"
    works = {(work["kind"], work["at"]): work for work in found["works"]}
    assert set(works) == {
        *(("prefill", at) for at in (512, 2048)),
        *(("decode", at) for at in (2, 512, 2048)),
        *((kind, turn) for kind in ("turn", "reread") for turn in (1, 5, 10, 20)),
    }
    decode = works["decode", 512]
    assert decode["unit"] == "tokens/s"
    assert decode["share_of_copy"] == pytest.approx(0.1052)
    assert decode["engines"]["transformers"]["ratio"] == pytest.approx(5)
    assert decode["engines"]["transformers"]["samples"] == pytest.approx([20, 20])
    assert works["turn", 20]["prompt_tokens"] == result.prompt_tokens[20]
    assert list(works["reread", 20]["engines"]) == ["glmtui"]


def test_what_is_not_known_is_not_shown_as_zero() -> None:
    bare = replace(engine_start("glmtui"), step_bytes=None, quant="")
    result = BenchResult(BenchPlan((target("glmtui"),)), [EngineResult(bare)])
    result.ours.samples[Measurement("decode", 1)] = [9.0]
    text = bench_report.as_table(result, 80)
    assert "OF COPY:" not in text
    (row,) = (line for line in text.splitlines() if line.startswith("decode"))
    assert row.split()[-1] == "9.0"
    (row,) = (line for line in text.splitlines() if line.startswith("peak memory"))
    assert row.split()[-1] == "-"
