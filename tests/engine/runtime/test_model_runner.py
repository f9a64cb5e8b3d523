"""Replies of a toy model: limits, stops, prefix reuse, chunks, cancelling, errors."""

from __future__ import annotations

import pytest
import torch

from glmtui.chat import Message, SamplingParams
from glmtui.engine.api import PrefillProgress
from glmtui.engine.hardware.memory import peak_memory
from glmtui.engine.runtime import model_runner
from glmtui.engine.runtime.context_window import fit_messages
from glmtui.engine.runtime.model_runner import LoadedModel
from glmtui.engine.runtime.token_stream import TokenStream
from glmtui.errors import EngineError, OutOfMemory, PromptTooLong
from support.toy_decoder import CountingDecoder, toy_model

GREEDY = SamplingParams(temperature=0)


def start_reply(model: LoadedModel, *contents: str, **params: int) -> TokenStream:
    roles = ("user", "assistant")
    messages = [Message(roles[i % 2], c) for i, c in enumerate(contents)]
    return model.stream(messages, SamplingParams(temperature=0, **params))


def decoder_of(model: LoadedModel) -> CountingDecoder:
    assert isinstance(model.model, CountingDecoder)
    return model.model


def test_a_reply_streams_and_ends_at_its_limit() -> None:
    stream = start_reply(toy_model(), "a", max_new_tokens=3)
    assert list(stream) == ["b", "c", "d"]
    reply = stream.result
    assert (reply.text, reply.ids, reply.finish_reason) == ("bcd", (98, 99, 100), "length")
    assert (reply.stats.prompt_tokens, reply.stats.generated_tokens) == (2, 3)
    assert 0 < reply.stats.prefill_seconds <= reply.stats.first_token_seconds
    assert reply.stats.peak_memory is not None
    assert reply.stats.peak_memory > 2**20


def test_a_stop_id_ends_the_reply_and_is_not_part_of_it() -> None:
    model = toy_model()
    stream = model.stream_ids([254], GREEDY)
    assert list(stream.ids()) == [255]
    assert stream.result.finish_reason == "stop"


def test_incomplete_characters_come_out_at_the_end() -> None:
    stream = toy_model().stream_ids([254], GREEDY)
    assert "".join(stream) == "\ufffd" == stream.result.text


def test_max_length_counts_the_prompt() -> None:
    stream = start_reply(toy_model(), "aaa", max_length=6)
    assert len(list(stream)) == 2  # "u" and three letters are there already


def test_a_reply_ends_when_the_context_is_full() -> None:
    model = toy_model(context_length=16)
    reply = start_reply(model, "a")
    list(reply)
    assert reply.result.finish_reason == "length"
    assert reply.result.stats.prompt_tokens + reply.result.stats.generated_tokens == 16


def test_a_cached_prefix_is_not_read_again() -> None:
    model = toy_model()
    list(start_reply(model, "hello", max_new_tokens=2))
    second = start_reply(model, "hello", "pq", "and", max_new_tokens=2)
    list(second)
    # "uhello", then "p" was generated and fed; the reply's last token was never fed
    assert second.result.stats.reused_tokens == len("uhello")
    other = start_reply(model, "help", max_new_tokens=1)
    list(other)
    assert other.result.stats.reused_tokens == len("uhel")


def test_the_same_prompt_again_reads_its_last_token_only() -> None:
    model = toy_model()
    for _ in range(2):
        list(start_reply(model, "same", max_new_tokens=1))
    assert decoder_of(model).fed[-1] == [ord("e")]


def test_a_long_prompt_is_read_in_chunks_with_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(model_runner.PREFILL_CHUNK, "cpu", (4, 4))
    seen: list[PrefillProgress] = []
    stream = toy_model().stream(
        [Message("user", "abcdefghi")], SamplingParams(max_new_tokens=1), on_prefill=seen.append
    )
    list(stream)
    assert [(p.done, p.total) for p in seen] == [(0, 10), (4, 10), (8, 10), (10, 10)]


def test_cancelling_takes_effect_between_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(model_runner.PREFILL_CHUNK, "cpu", (4, 4))
    model = toy_model()
    stream = model.stream(
        [Message("user", "abcdefghi")], cancelled=lambda: len(decoder_of(model).fed) == 1
    )
    assert list(stream) == []
    assert stream.result.finish_reason == "cancelled"
    # and the next reply goes on from the chunk that was read
    again = start_reply(model, "abcdefghi", max_new_tokens=1)
    list(again)
    assert again.result.stats.reused_tokens == 4


def test_cancelling_takes_effect_at_every_token() -> None:
    model = toy_model()
    pieces: list[str] = []
    stream = model.stream([Message("user", "a")], GREEDY, cancelled=lambda: len(pieces) == 2)
    for piece in stream:
        pieces.append(piece)
    assert (stream.result.text, stream.result.finish_reason) == ("bc", "cancelled")


def test_closing_ends_the_reply() -> None:
    stream = start_reply(toy_model(), "a")
    pieces = iter(stream)
    next(pieces)
    stream.close()
    assert list(pieces) == []
    assert stream.result.text == "b"


def test_a_failing_model_leaves_the_partial_and_an_explanation() -> None:
    model = toy_model()
    decoder_of(model).fail_at = ord("d")
    stream = start_reply(model, "a")
    with pytest.raises(EngineError, match=r"illegal something\n"):
        list(stream)
    assert (stream.result.text, stream.result.finish_reason) == ("bcd", "error")
    decoder_of(model).fail_at = None
    again = start_reply(model, "a", max_new_tokens=5)
    assert "".join(again) == "bcdef"


def test_out_of_memory_clears_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy_model()
    list(start_reply(model, "a", max_new_tokens=1))

    def full(*args: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(CountingDecoder, "forward", full)
    with pytest.raises(OutOfMemory, match="No memory left on cpu"):
        list(start_reply(model, "b"))
    monkeypatch.undo()
    again = start_reply(model, "a", max_new_tokens=1)
    list(again)
    assert again.result.stats.reused_tokens == 0


def test_old_messages_are_dropped_when_the_context_is_full() -> None:
    model = toy_model(context_length=32)
    stream = start_reply(model, "first question", "first answer", "second", "answer", "third")
    list(stream)
    assert stream.result.dropped_turns == 2
    assert stream.result.stats.prompt_tokens == len("usecond" + "aanswer" + "uthird")


def test_the_system_prompt_is_never_dropped() -> None:
    messages = [Message("system", "S"), Message("user", "x" * 9), Message("user", "y")]
    ids, dropped = fit_messages(toy_model().chat_format, messages, 8, 10)
    assert (bytes(ids), dropped) == (b"sSuy", 1)


def test_a_question_longer_than_the_context_is_refused() -> None:
    with pytest.raises(PromptTooLong, match="fit into the context"):
        start_reply(toy_model(context_length=16), "x" * 40)


def test_a_reply_can_continue_a_message() -> None:
    stream = start_reply(toy_model(), "q", "ab", max_new_tokens=2)
    assert "".join(stream) == "cd"


def test_logits_come_for_every_position() -> None:
    logits = toy_model().logits([1, 2, 3])
    assert logits.shape == (3, 300)
    assert logits.argmax(-1).tolist() == [2, 3, 4]


def test_peak_memory_is_the_sum_over_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {"cuda:0": 3, "cuda:1": 40, "cuda:2": 500}
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peaks[str(device)])
    gpus = [torch.device(name) for name in peaks]
    assert peak_memory([gpus[0]]) == 3
    assert peak_memory([gpus[0], gpus[0], gpus[1]]) == 43  # a device for each part of a model
    resident = peak_memory([torch.device("cpu")])
    assert resident is not None
    assert resident > 2**20
