"""Families: how checkpoints with the model_type "chatglm" are distinguished."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glmtui.engine.catalog import resolver
from glmtui.engine.catalog.families import detect_family
from glmtui.engine.model_info import ModelInfo
from glmtui.errors import UnsupportedModel
from support.checkpoints import llama_files, write_folder


def family(folder: Path, **config: object) -> str:
    return detect_family(config, folder).key


CHATGLM2 = {"model_type": "chatglm", "padded_vocab_size": 65024, "eos_token_id": 2}


def test_families_by_config(tmp_path: Path) -> None:
    assert family(tmp_path, model_type="llama") == "llama"
    assert family(tmp_path, model_type="glm", vocab_size=151552) == "glm4"
    assert family(tmp_path, model_type="chatglm", inner_hidden_size=16384) == "chatglm"
    assert family(tmp_path, **{**CHATGLM2, "padded_vocab_size": 151552}) == "glm4"
    assert family(tmp_path, **{**CHATGLM2, "eos_token_id": [1, 2, 3]}) == "glm4"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("THUDM/chatglm2-6b", "chatglm2"),
        ("THUDM/chatglm3-6b-32k", "chatglm3"),
        ("/models/ChatGLM3-6B/", "chatglm3"),
        ("THUDM/codegeex2-6b", "chatglm2"),
    ],
)
def test_chatglm3_and_2_are_distinguished_by_name(tmp_path: Path, name: str, expected: str) -> None:
    for length in (8192, 32768):
        assert family(tmp_path, **CHATGLM2, _name_or_path=name, seq_length=length) == expected


def test_chatglm3_and_2_are_distinguished_by_folder(tmp_path: Path) -> None:
    for named, key in (("chatglm3-6b", "chatglm3"), ("my-chatglm2", "chatglm2")):
        folder = tmp_path / "chatglm2-or-chatglm3" / named
        assert family(folder, **CHATGLM2) == key
    snapshot = tmp_path / "models--THUDM--chatglm3-6b" / "snapshots" / "0123"
    assert family(snapshot, **CHATGLM2, seq_length=32768) == "chatglm3"


@pytest.mark.parametrize("hint", ["tokenizer_config.json", "tokenization_chatglm.py"])
def test_chatglm3_and_2_are_distinguished_by_role_tokens(tmp_path: Path, hint: str) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    assert family(folder, **CHATGLM2, seq_length=32768) == "chatglm2"
    (folder / hint).write_text("... <|assistant|> ...")
    assert family(folder, **CHATGLM2, seq_length=32768) == "chatglm3"


def test_chatglm3_and_2_are_distinguished_last_by_context_length(tmp_path: Path) -> None:
    assert family(tmp_path / "mine", **CHATGLM2, seq_length=8192) == "chatglm3"
    assert family(tmp_path / "mine", **CHATGLM2, seq_length=32768) == "chatglm2"


def test_the_error_for_another_family_names_the_supported_ones(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="model_type is 'bert'") as caught:
        family(tmp_path, model_type="bert")
    assert "ChatGLM3-6B" in caught.value.hint
    with pytest.raises(UnsupportedModel, match="no model_type"):
        family(tmp_path)


def test_a_base_model_cannot_chat_unless_its_family_is_given(tmp_path: Path) -> None:
    files = llama_files()
    files["config.json"] = json.dumps(
        {**CHATGLM2, "_name_or_path": "THUDM/chatglm3-6b-base", "seq_length": 32768}
    ).encode()
    folder = write_folder(tmp_path / "mine", files)
    with pytest.raises(UnsupportedModel, match="cannot chat"):
        resolver.resolve(str(folder))
    info = resolver.resolve(str(folder), family="chatglm3")
    assert isinstance(info, ModelInfo)
    assert info.family == "chatglm3"
    with pytest.raises(UnsupportedModel, match="no model family 'chatglm9'"):
        resolver.resolve(str(folder), family="chatglm9")


@pytest.mark.parametrize(
    ("name", "is_base"),
    [
        ("THUDM/chatglm3-6b-base", True),
        ("THUDM/glm-4-9b", True),
        ("THUDM/glm4-9b", True),
        ("THUDM/glm-4-9b-hf", True),
        ("/models/ChatGLM3-6B-Base/", True),
        ("THUDM/chatglm3-6b", False),
        ("THUDM/glm-4-9b-chat", False),
        ("THUDM/glm4-9b-chat", False),
        ("THUDM/glm-4-9b-chat-hf", False),
    ],
)
def test_base_models_are_recognised_by_their_names(
    tmp_path: Path, name: str, is_base: bool
) -> None:
    config = {**CHATGLM2, "_name_or_path": name}
    if not is_base:
        assert family(tmp_path / "mine", **config)
        return
    with pytest.raises(UnsupportedModel, match="base model"):
        family(tmp_path / "mine", **config)
