"""A reply that calls a tool: what the model is told of tools, and how its call joins the talk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from glmtui.chat import Conversation, GenerationStats, Message, SamplingParams, with_tools
from glmtui.engine.api import ToolCall
from glmtui.engine.model_info import LoadedInfo
from glmtui.engine.models.chatglm3 import ROLES, RoleFormat
from glmtui.engine.models.glm4 import ToolFormat
from glmtui.engine.nn.kv_cache import KVCache
from glmtui.engine.runtime.autotune import ChunkTuner
from glmtui.engine.runtime.model_runner import LoadedModel
from glmtui.engine.runtime.token_stream import TokenStream
from glmtui.tools import Parameter, Tool
from support.goldens import SHARED, load, tokenizer_file
from support.toy_decoder import CPU, CountingDecoder

MARKS = ("[gMASK]", "sop", *ROLES)
TOOL = Tool("get_weather", "天气", ("echo", "{city}"), (Parameter("city", "城市"),))
CALL = "get_weather\n```python\ntool_call(city='北京')\n```"
FENCE = "```python\ntool_call(city='北京')\n```"
CHUNK = 512  # of a prompt


class Bytes:
    """Ids are bytes, then special tokens, which are written out."""

    strips_leading_space = False

    def __init__(self) -> None:
        self.special = {mark: 256 + i for i, mark in enumerate(MARKS)}
        self._marks = {i: mark for mark, i in self.special.items()}

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode()

    def token_bytes(self, token_id: int) -> bytes:
        return self._marks[token_id].encode() if token_id > 255 else bytes([token_id])


class Speaker(CountingDecoder):
    """Says what it was told to, whatever it is asked."""

    supports_rewind = False  # what was said is said

    def __init__(self, says: Sequence[int]) -> None:
        super().__init__()
        self.says = list(says)

    def forward(
        self,
        ids: Tensor,
        cache: KVCache | None = None,
        *,
        last_only: bool = False,
        padding: Tensor | None = None,
    ) -> Tensor:
        assert cache is not None
        cache.advance(ids.shape[1])
        logits = torch.zeros(1, 1, 300)
        if ids.shape[1] < CHUNK:  # the prompt ends here
            logits[0, 0, self.says.pop(0)] = 10.0
        return logits


def speaker(says: str, kind: type[RoleFormat] = RoleFormat) -> LoadedModel:
    """A model that says this; "|" stands for <|assistant|>, and the end for <|observation|>."""
    tokenizer = Bytes()
    ids: list[int] = []
    for n, part in enumerate(says.split("|")):
        ids += [*([tokenizer.special["<|assistant|>"]] if n else []), *part.encode()]
    ids.append(tokenizer.special["<|observation|>"])
    form = kind(tokenizer, MARKS[:2], frozenset())
    info = LoadedInfo(name="speaker", device="cpu", context_length=4096, calls_tools=True)
    model = LoadedModel(
        Speaker(ids), tokenizer, form, form.stop_ids, info, dtype=torch.float32, device=CPU
    )
    model._chunk_tuner = ChunkTuner(CHUNK, CHUNK)
    return model


def said(model: LoadedModel, messages: Sequence[Message], **params: int) -> tuple[str, TokenStream]:
    stream = model.stream(messages, SamplingParams(temperature=0, **params))
    return "".join(stream), stream


QUESTION = Message("user", "北京天气怎么样")
OFFERED = with_tools([QUESTION], [TOOL.declaration])


# ---- what the model is told


def test_tools_stand_in_the_system_message() -> None:
    told = Message("system", "Be kind.")
    assert with_tools([told, QUESTION], []) == (told, QUESTION)
    declared = with_tools([told, QUESTION], [{"name": "a"}])
    assert declared == (replace(told, tools=({"name": "a"},)), QUESTION)
    assert OFFERED[0] == Message("system", "", tools=(TOOL.declaration,))
    assert OFFERED[1:] == (QUESTION,)


@pytest.mark.parametrize(
    ("kind", "own"), [(RoleFormat, "Answer the following"), (ToolFormat, "GLM-4")]
)
def test_the_prompt_declares_them_as_the_family_does(kind: type[RoleFormat], own: str) -> None:
    model = speaker("", kind)
    form = model.chat_format
    assert isinstance(form, RoleFormat)
    prompt = model.tokenizer.decode(form.encode(OFFERED))
    assert prompt.startswith("[gMASK]sop<|system|>\n")
    assert form.declare([TOOL.declaration]) in prompt
    assert own in prompt
    given = with_tools([Message("system", "Be kind."), QUESTION], [TOOL.declaration])
    prompt = model.tokenizer.decode(form.encode(given))
    assert "<|system|>\nBe kind.\n" in prompt
    assert own not in prompt


# ---- what it answers


def test_plain_talk_begins_without_its_empty_line() -> None:
    text, stream = said(speaker("\n 你好。\n第二行 "), OFFERED)
    assert text == "你好。\n第二行 "
    reply = stream.result
    assert reply.text == "你好。\n第二行"
    assert reply.messages == (Message("assistant", "你好。\n第二行"),)
    assert reply.call is None


def test_a_remark_and_a_call() -> None:
    text, stream = said(speaker(f"\n先查一下|{CALL}"), OFFERED)
    assert text == f"先查一下<|assistant|>{CALL}"
    reply = stream.result
    assert reply.finish_reason == "stop"
    assert reply.text == FENCE
    assert reply.messages == (
        Message("assistant", "先查一下"),
        Message("assistant", FENCE, metadata="get_weather"),
    )
    assert reply.call == ToolCall("get_weather", {"city": "北京"}, FENCE)
    assert TOOL.invocation(reply.call.arguments).argv == ("echo", "北京")


def test_a_call_in_json() -> None:
    reply = said(speaker('get_weather\n{"city": "北京"}', ToolFormat), OFFERED)[1].result
    assert reply.call == ToolCall("get_weather", {"city": "北京"}, '{"city": "北京"}')


def test_without_tools_a_call_is_only_shown() -> None:
    reply = said(speaker("interpreter\n```python\nprint(1)\n```"), [QUESTION])[1].result
    assert reply.call == ToolCall("interpreter", None, "```python\nprint(1)\n```")


def test_a_call_that_cannot_be_read_says_why() -> None:
    reply = said(speaker("get_weather\n```python\ntool_call(city=x)\n```"), OFFERED)[1].result
    assert reply.call is not None
    assert reply.call.arguments is None
    assert "cannot be read" in reply.call.problem


def test_a_reply_cut_short_calls_nothing() -> None:
    _, stream = said(speaker(f"\n先查一下|{CALL}"), OFFERED, max_new_tokens=40)
    reply = stream.result
    assert reply.finish_reason == "length"
    assert reply.call is None
    assert [m.metadata for m in reply.messages] == ["", "get_weather"]
    assert FENCE.startswith(reply.text)


def test_a_reply_that_goes_on_is_only_what_is_new() -> None:
    begun = Message("assistant", "先查")
    text, stream = said(speaker(" 一下\n好"), [QUESTION, begun])
    assert text == stream.result.text == " 一下\n好"
    assert stream.result.messages == ()


# ---- the talk goes on


def test_the_next_prompt_has_the_call_and_its_answer() -> None:
    model = speaker(f"\n先查一下|{CALL}")
    talk = Conversation.new(system="Be kind.").add(QUESTION)
    reply = said(model, with_tools(talk.prompt, [TOOL.declaration]))[1].result
    talk = talk.add(Message("assistant", ""))
    written = replace(talk.path[-1], content=reply.text, stats=reply.stats, finish_reason="stop")
    talk = talk.put_reply(written, reply.messages).add(Message("observation", "晴，20 度"))
    assert [m.role for m in talk.path] == ["user", "assistant", "assistant", "observation"]
    prompt = model.tokenizer.decode(model.chat_format.encode(talk.path))
    assert prompt == (
        "[gMASK]sop<|user|>\n北京天气怎么样<|assistant|>\n先查一下"
        f"<|assistant|>{CALL}<|observation|>\n晴，20 度<|assistant|>"
    )


def test_a_reply_of_several_messages_takes_the_place_of_one() -> None:
    talk = Conversation.new().add(QUESTION).add(Message("assistant", "", model="m"))
    stats = GenerationStats(generated_tokens=3)
    reply = replace(talk.path[-1], content="whole", stats=stats, finish_reason="stop")

    plain = talk.put_reply(reply, ())
    assert plain.path[-1] == reply
    one = talk.put_reply(reply, [Message("assistant", "b", metadata="tool")])
    assert one.path[-1] == replace(reply, content="b", metadata="tool")

    two = talk.put_reply(
        reply, [Message("assistant", "a"), Message("assistant", "b", metadata="t")]
    )
    first, second = two.path[1:]
    assert (first.id, first.content, first.metadata, first.stats) == (reply.id, "a", "", None)
    assert (second.content, second.metadata, second.stats) == ("b", "t", stats)
    assert second.parent == first.id
    assert second.id == two.head != first.id
    assert {m.model for m in (first, second)} == {"m"}
    # asked again, the whole reply is left for another
    again = two.rewind(first.id).add(Message("assistant", "c"))
    assert len(again.siblings(first.id)) == 2


def test_a_real_model_says_whether_it_calls_tools(tmp_path: Path) -> None:
    source = SHARED / "fixtures" / "models" / "v3_realvocab"
    model = tokenizer_file("chatglm3-6b", "tokenizer.model")
    if not source.is_dir():
        pytest.skip("the golden set lies in ../shared, which is not here")
    shutil.copytree(source, tmp_path / "v3")
    assert not load(tmp_path / "v3").info.calls_tools  # without a tokenizer it does not chat
    shutil.copyfile(model, tmp_path / "v3" / "tokenizer.model")
    loaded = load(tmp_path / "v3")
    assert loaded.info.calls_tools
    prompt = loaded.chat_format.encode(OFFERED)
    assert "get_weather" in loaded.tokenizer.decode(prompt)
