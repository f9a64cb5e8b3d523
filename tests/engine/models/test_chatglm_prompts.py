"""Messages as the prompts of ChatGLM-6B, ChatGLM2 and ChatGLM3, and their replies as text."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from glmtui.chat import Message, SamplingParams
from glmtui.chat.rounds import Round, rounds
from glmtui.engine.catalog.families import FAMILIES
from glmtui.engine.models import chatglm, chatglm2, chatglm3
from support.goldens import SHARED, load, read_json, tokenizer_file


class Letters:
    """A tokenizer of one id per character; special tokens are negative."""

    def __init__(self) -> None:
        tags = ("<sop>", "<eop>", *chatglm2.SPECIALS, *chatglm3.ROLES)
        self.special = {tag: -1 - i for i, tag in enumerate(tags)}

    def encode(self, text: str) -> list[int]:
        return [ord(char) for char in text]

    def read(self, ids: Sequence[int]) -> str:
        tags = {i: tag for tag, i in self.special.items()}
        return "".join(tags[i] if i < 0 else chr(i) for i in ids)


def prompt(family: str, *messages: tuple[str, str]) -> str:
    letters = Letters()
    formats: dict[str, Any] = {
        "v1": lambda: chatglm.RoundFormat(letters),  # type: ignore[arg-type]
        "v2": lambda: chatglm2.RoundFormat(letters, frozenset({2})),  # type: ignore[arg-type]
        "v3": lambda: chatglm3.RoleFormat(letters, ("[gMASK]", "sop"), frozenset({2})),
    }
    return letters.read(formats[family]().encode([Message(*m) for m in messages]))


TALK = [("user", "你好"), ("assistant", "你好！"), ("user", "再见")]


def test_rounds_of_the_first_form() -> None:
    assert prompt("v1", ("user", "你好")) == "你好[gMASK]<sop>"
    assert prompt("v1", *TALK) == (
        "[Round 0]\n问：你好\n答：你好！\n[Round 1]\n问：再见\n答：[gMASK]<sop>"
    )


def test_rounds_of_the_second_form() -> None:
    assert prompt("v2", ("user", "你好")) == "[gMASK]sop[Round 1]\n\n问：你好\n\n答："
    assert prompt("v2", *TALK) == (
        "[gMASK]sop[Round 1]\n\n问：你好\n\n答：你好！\n\n[Round 2]\n\n问：再见\n\n答："
    )


def test_roles() -> None:
    assert prompt("v3", ("system", "短"), *TALK) == (
        "[gMASK]sop<|system|>\n短<|user|>\n你好<|assistant|>\n你好！<|user|>\n再见<|assistant|>"
    )


def test_a_system_prompt_stands_before_the_rounds() -> None:
    assert prompt("v1", ("system", "短"), ("user", "你好")) == (
        "短\n[Round 0]\n问：你好\n答：[gMASK]<sop>"
    )
    assert prompt("v2", ("system", "短"), ("user", "你好")) == (
        "[gMASK]sop短\n\n[Round 1]\n\n问：你好\n\n答："
    )


def test_a_reply_goes_on_where_it_stops() -> None:
    begun = [("user", "你好"), ("assistant", "你")]
    assert prompt("v1", *begun) == "你好[gMASK]<sop>你"
    assert prompt("v2", *begun) == "[gMASK]sop[Round 1]\n\n问：你好\n\n答：你"
    assert prompt("v3", *begun) == "[gMASK]sop<|user|>\n你好<|assistant|>\n你"


def test_metadata_stands_beside_the_role() -> None:
    letters = Letters()
    form = chatglm3.RoleFormat(letters, ("[gMASK]", "sop"), frozenset({2}))
    ids = form.encode([Message("assistant", "f()", metadata="tool"), Message("observation", "1")])
    assert letters.read(ids) == ("[gMASK]sop<|assistant|>tool\nf()<|observation|>\n1<|assistant|>")
    speakers = {letters.special["<|user|>"], letters.special["<|observation|>"]}
    assert form.stop_ids == {2} | speakers


def test_uneven_talk_still_makes_rounds() -> None:
    def of(*messages: tuple[str, str]) -> tuple[str, list[Round]]:
        return rounds([Message(*m) for m in messages])  # type: ignore[arg-type]

    assert of() == ("", [("", "")])
    assert of(("user", "a"), ("user", "b")) == ("", [("a\nb", "")])
    assert of(("assistant", "x"), ("user", "a")) == ("", [("", "x"), ("a", "")])
    assert of(("user", "a"), ("assistant", "x"), ("assistant", "y")) == ("", [("a", "x\ny")])
    assert of(("user", "a"), ("assistant", ""), ("user", "b")) == ("", [("a", ""), ("b", "")])
    assert of(("system", "s"), ("user", "a"), ("observation", "1")) == ("s", [("a\n1", "")])


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("  好,是的!真的?\n", "好，是的！真的？"),
        ("时间:12:30;a,b", "时间：12:30;a,b"),
        ("中!!!", "中！!!"),
        ("?中", "？中"),
        ("[[训练时间]]", "2023年"),
    ],
)
def test_punctuation_next_to_chinese_is_made_chinese(said: str, shown: str) -> None:
    form = chatglm.RoundFormat(Letters())  # type: ignore[arg-type]
    assert form.postprocess(said) == shown


def test_defaults_are_those_of_each_chat() -> None:
    raw = {"seq_length": 32768}
    here = Path()
    assert chatglm.defaults(here, {}) == SamplingParams(0.95, 50, 0.7, None, True, None, 2048)
    assert chatglm2.defaults(here, raw) == SamplingParams(0.8, 50, 0.8, None, True, None, 8192)
    assert chatglm3.defaults(here, raw).max_length == 32768
    assert chatglm3.defaults(here, {"seq_length": 8192}).max_length == 8192


def test_every_glm_family_has_the_whole_interface() -> None:
    from glmtui.engine.models.model_family import import_family

    wanted = {"Model", "load_config", "sources", "load_tokenizer", "chat_format", "defaults"}
    for family in FAMILIES:
        if "glm" in family.key:
            assert wanted | {"stop_ids"} <= set(dir(import_family(family.key))), family.key


# ---- with the released tokenizer files, where they lie beside the repository


def slim_format() -> chatglm.RoundFormat:
    folder = tokenizer_file("chatglm-6b", "ice_text.slim.model")
    return chatglm.RoundFormat(chatglm.IceTokenizer(chatglm.load_ice_text(folder)))


def original_format() -> chatglm.RoundFormat:
    folder = tokenizer_file("chatglm-6b", "ice_text.original.model")
    return chatglm.RoundFormat(chatglm.IceTokenizer(chatglm.load_ice_text(folder), 20_000))


def second_format(family: Any) -> Any:
    folder = tokenizer_file("chatglm2-6b", "tokenizer.model").parent
    return family.chat_format(family.load_tokenizer(folder, {}), folder, {"eos_token_id": 2})


def test_prompts_are_the_originals() -> None:
    forms = {
        "v1.ids": slim_format(),
        "v1.ids_original_vocab": original_format(),
        "v2.ids": second_format(chatglm2),
        "v3.ids": second_format(chatglm3),
    }
    for talk in read_json("tokenizer", "conversations.json")["conversations"]:
        messages = [
            Message(role, text)
            for pair in talk["history"]
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        messages.append(Message("user", talk["query"]))
        for name, form in forms.items():
            family, key = name.split(".")
            assert form.encode(messages) == talk[family][key], name


def test_prompts_with_tools_are_the_originals() -> None:
    form = second_format(chatglm3)

    def message(told: dict[str, Any]) -> Message:
        content = told["content"]
        if "tools" in told:
            content = form.declare(told["tools"], content)
        return Message(told["role"], content, metadata=told.get("metadata", ""))

    for talk in read_json("tokenizer", "conversations.json")["v3_extra"]:
        messages = [*map(message, talk["history"]), Message(talk["role"], talk["query"])]
        assert form.encode(messages) == talk["ids"], talk["name"]


def test_finished_replies_are_the_originals() -> None:
    replies = read_json("misc", "process_response.json")
    for family, form in (("v1", slim_format()), ("v2", second_format(chatglm2))):
        for said, shown in replies[family]:
            assert form.postprocess(said) == shown
    form = second_format(chatglm3)
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
    greedy = read_json("models", name, "greedy.json")["rv_hello"]["new_ids"]
    folder = tmp_path / name
    shutil.copytree(SHARED / "fixtures" / "models" / name, folder)
    shutil.copyfile(tokenizer_file(*file.split("/")), folder / beside)
    model = load(folder)
    stream = model.stream(
        [Message("user", "你好")], SamplingParams(temperature=0, max_new_tokens=16)
    )
    text = "".join(stream)
    assert list(stream.result.ids) == greedy
    assert text == model.tokenizer.decode(greedy)
