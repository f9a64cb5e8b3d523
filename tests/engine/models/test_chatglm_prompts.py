"""Messages as the prompts of ChatGLM-6B, ChatGLM2 and ChatGLM3, and their replies as text."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from glmtui.chat import Message, SamplingParams
from glmtui.engine.catalog.families import COMPATIBILITY, FAMILIES
from glmtui.engine.models import chatglm, chatglm2, chatglm3
from glmtui.engine.models.chatglm_rounds import Round, split_rounds
from support.goldens import SHARED_MODELS, load_float32, read_shared_json, released_tokenizer


class CharacterTokenizer:
    """Ids are code points; special tokens have negative ids."""

    def __init__(self) -> None:
        tokens = ("<sop>", "<eop>", *chatglm2.SPECIAL_TOKENS, *chatglm3.ROLE_TOKENS)
        self.special = {token: -1 - i for i, token in enumerate(tokens)}

    def encode(self, text: str) -> list[int]:
        return [ord(char) for char in text]

    def decode(self, ids: Sequence[int]) -> str:
        tokens = {i: token for token, i in self.special.items()}
        return "".join(tokens[i] if i < 0 else chr(i) for i in ids)


def prompt(family: str, *messages: tuple[str, str]) -> str:
    tokenizer = CharacterTokenizer()
    formats: dict[str, Any] = {
        "v1": lambda: chatglm.RoundFormat(tokenizer),  # type: ignore[arg-type]
        "v2": lambda: chatglm2.RoundFormat(tokenizer, frozenset({2})),  # type: ignore[arg-type]
        "v3": lambda: chatglm3.RoleFormat(tokenizer, ("[gMASK]", "sop"), frozenset({2})),
    }
    return tokenizer.decode(formats[family]().encode([Message(*m) for m in messages]))


CONVERSATION = [("user", "你好"), ("assistant", "你好！"), ("user", "再见")]


def test_rounds_of_the_first_form() -> None:
    assert prompt("v1", ("user", "你好")) == "你好[gMASK]<sop>"
    assert prompt("v1", *CONVERSATION) == (
        "[Round 0]\n问：你好\n答：你好！\n[Round 1]\n问：再见\n答：[gMASK]<sop>"
    )


def test_rounds_of_the_second_form() -> None:
    assert prompt("v2", ("user", "你好")) == "[gMASK]sop[Round 1]\n\n问：你好\n\n答："
    assert prompt("v2", *CONVERSATION) == (
        "[gMASK]sop[Round 1]\n\n问：你好\n\n答：你好！\n\n[Round 2]\n\n问：再见\n\n答："
    )


def test_roles() -> None:
    assert prompt("v3", ("system", "短"), *CONVERSATION) == (
        "[gMASK]sop<|system|>\n短<|user|>\n你好<|assistant|>\n你好！<|user|>\n再见<|assistant|>"
    )


def test_a_system_prompt_is_before_the_rounds() -> None:
    assert prompt("v1", ("system", "短"), ("user", "你好")) == (
        "短\n[Round 0]\n问：你好\n答：[gMASK]<sop>"
    )
    assert prompt("v2", ("system", "短"), ("user", "你好")) == (
        "[gMASK]sop短\n\n[Round 1]\n\n问：你好\n\n答："
    )


def test_a_reply_is_continued_where_it_stops() -> None:
    unfinished = [("user", "你好"), ("assistant", "你")]
    assert prompt("v1", *unfinished) == "你好[gMASK]<sop>你"
    assert prompt("v2", *unfinished) == "[gMASK]sop[Round 1]\n\n问：你好\n\n答：你"
    assert prompt("v3", *unfinished) == "[gMASK]sop<|user|>\n你好<|assistant|>\n你"


def test_metadata_follows_the_role_token() -> None:
    tokenizer = CharacterTokenizer()
    form = chatglm3.RoleFormat(tokenizer, ("[gMASK]", "sop"), frozenset({2}))
    ids = form.encode([Message("assistant", "f()", metadata="tool"), Message("observation", "1")])
    assert tokenizer.decode(ids) == (
        "[gMASK]sop<|assistant|>tool\nf()<|observation|>\n1<|assistant|>"
    )
    speakers = {tokenizer.special["<|user|>"], tokenizer.special["<|observation|>"]}
    assert form.stop_ids == {2} | speakers


def test_any_order_of_roles_makes_rounds() -> None:
    def rounds(*messages: tuple[str, str]) -> tuple[str, list[Round]]:
        return split_rounds([Message(*m) for m in messages])  # type: ignore[arg-type]

    assert rounds() == ("", [("", "")])
    assert rounds(("user", "a"), ("user", "b")) == ("", [("a\nb", "")])
    assert rounds(("assistant", "x"), ("user", "a")) == ("", [("", "x"), ("a", "")])
    assert rounds(("user", "a"), ("assistant", "x"), ("assistant", "y")) == ("", [("a", "x\ny")])
    assert rounds(("user", "a"), ("assistant", ""), ("user", "b")) == ("", [("a", ""), ("b", "")])
    assert rounds(("system", "s"), ("user", "a"), ("observation", "1")) == ("s", [("a\n1", "")])


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("  好,是的!真的?\n", "好，是的！真的？"),
        ("时间:12:30;a,b", "时间：12:30;a,b"),
        ("中!!!", "中！!!"),
        ("?中", "？中"),
        ("[[训练时间]]", "2023年"),
    ],
)
def test_punctuation_next_to_chinese_is_made_chinese(reply: str, expected: str) -> None:
    form = chatglm.RoundFormat(CharacterTokenizer())  # type: ignore[arg-type]
    assert form.postprocess(reply) == expected


def test_sampling_defaults_are_those_of_each_original() -> None:
    raw = {"seq_length": 32768}
    here = Path()
    assert chatglm.sampling_defaults(here, {}) == SamplingParams(
        0.95, 50, 0.7, None, True, None, 2048
    )
    assert chatglm2.sampling_defaults(here, raw) == SamplingParams(
        0.8, 50, 0.8, None, True, None, 8192
    )
    assert chatglm3.sampling_defaults(here, raw).max_length == 32768
    assert chatglm3.sampling_defaults(here, {"seq_length": 8192}).max_length == 8192


def test_every_native_family_has_the_whole_interface() -> None:
    from glmtui.engine.models.model_family import import_family

    interface = {
        *("Config", "Model", "load_config", "weight_sources", "load_tokenizer", "chat_format"),
        *("stop_ids", "sampling_defaults"),
    }
    for family in FAMILIES:
        if family.key != COMPATIBILITY:
            assert interface <= set(dir(import_family(family.key))), family.key


# ---- with the released tokenizer files, if they are at ../shared


def slim_format() -> chatglm.RoundFormat:
    folder = released_tokenizer("chatglm-6b", "ice_text.slim.model")
    return chatglm.RoundFormat(chatglm.IceTokenizer(chatglm.load_ice_text(folder)))


def original_format() -> chatglm.RoundFormat:
    folder = released_tokenizer("chatglm-6b", "ice_text.original.model")
    return chatglm.RoundFormat(chatglm.IceTokenizer(chatglm.load_ice_text(folder), 20_000))


def released_format(family: Any) -> Any:
    folder = released_tokenizer("chatglm2-6b", "tokenizer.model").parent
    return family.chat_format(family.load_tokenizer(folder, {}), folder, {"eos_token_id": 2})


def test_prompts_are_the_originals() -> None:
    forms = {
        "v1.ids": slim_format(),
        "v1.ids_original_vocab": original_format(),
        "v2.ids": released_format(chatglm2),
        "v3.ids": released_format(chatglm3),
    }
    for conversation in read_shared_json("tokenizer", "conversations.json")["conversations"]:
        messages = [
            Message(role, text)
            for pair in conversation["history"]
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        messages.append(Message("user", conversation["query"]))
        for name, form in forms.items():
            family, key = name.split(".")
            assert form.encode(messages) == conversation[family][key], name


def test_prompts_with_tools_are_the_originals() -> None:
    form = released_format(chatglm3)

    def message(entry: dict[str, Any]) -> Message:
        content = entry["content"]
        if "tools" in entry:
            content = form.tools_prompt(entry["tools"], content)
        return Message(entry["role"], content, metadata=entry.get("metadata", ""))

    for conversation in read_shared_json("tokenizer", "conversations.json")["v3_extra"]:
        messages = [
            *map(message, conversation["history"]),
            Message(conversation["role"], conversation["query"]),
        ]
        assert form.encode(messages) == conversation["ids"], conversation["name"]


def test_finished_replies_are_the_originals() -> None:
    replies = read_shared_json("misc", "process_response.json")
    for family, form in (("v1", slim_format()), ("v2", released_format(chatglm2))):
        for said, shown in replies[family]:
            assert form.postprocess(said) == shown
    form = released_format(chatglm3)
    for reply in replies["v3"]:
        messages = form.messages(reply["output"])
        appended = [(m.role, m.metadata, m.content) for m in messages]
        assert appended == [tuple(row.values()) for row in reply["appended"]]
        declared = "tools" in reply["history_in"][0]
        call = form.tool_call(messages[-1], declared=declared)
        if call is None:
            assert form.postprocess(reply["output"]) == reply["content"]
        elif declared:
            assert reply["content"] == {"name": call.name, "parameters": call.arguments}
        else:
            assert reply["content"] == {"name": call.name, "content": call.content}
            assert call.arguments is None


@pytest.mark.parametrize(
    ("name", "file", "beside"),
    [
        ("v1_realvocab_slim", "chatglm-6b/ice_text.slim.model", "ice_text.model"),
        ("v1_realvocab_orig", "chatglm-6b/ice_text.original.model", "ice_text.model"),
        ("v3_realvocab", "chatglm3-6b/tokenizer.model", "tokenizer.model"),
    ],
)
def test_with_its_tokenizer_file_a_folder_chats(
    tmp_path: Path, name: str, file: str, beside: str
) -> None:
    greedy = read_shared_json("models", name, "greedy.json")["rv_hello"]["new_ids"]
    folder = tmp_path / name
    shutil.copytree(SHARED_MODELS / name, folder)
    shutil.copyfile(released_tokenizer(*file.split("/")), folder / beside)
    model = load_float32(folder)
    stream = model.stream(
        [Message("user", "你好")], SamplingParams(temperature=0, max_new_tokens=16)
    )
    text = "".join(stream)
    assert list(stream.result.ids) == greedy
    assert text == model.tokenizer.decode(greedy)
