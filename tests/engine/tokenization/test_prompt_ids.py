"""The ids of a prompt are those of the whole text, and typed text stays text.

Prompts are compared with the ids that the `tokenizers` library gives for the rendered text, which
is what transformers' ``apply_chat_template(tokenize=True)`` returns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from glmtui.chat import Message
from glmtui.engine.tokenization.hf_tokenizer import HFTokenizer
from glmtui.engine.tokenization.template_format import TemplateFormat

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }} <|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TAGS = ("<s>", "<|user|>", "<|assistant|>", "<|end|>")
SPACED = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]


def make_tokenizer(
    pre: Any = None, normalizer: Any = None, tags: Sequence[str] = TAGS, **flags: bool
) -> Tokenizer:
    """A SentencePiece-like tokenizer that knows all ASCII characters, some words and the tags."""
    pieces = ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), "▁"]
    pieces += [chr(c) for c in range(33, 127)] + ["▁h", "he", "hi", "▁hi", "▁▁"]
    merges = [("▁", "h"), ("h", "e"), ("h", "i"), ("▁", "hi"), ("▁", "▁")]
    vocabulary = {piece: n for n, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    if pre is not None:
        tokenizer.pre_tokenizer = pre
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    flags = {"normalized": False, **flags}
    tokenizer.add_special_tokens([AddedToken(tag, special=True, **flags) for tag in tags])
    return tokenizer


def metaspace(scheme: str) -> Any:
    return pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)


CASES = {
    "space before the first word only": make_tokenizer(metaspace("first")),
    "space before every part": make_tokenizer(metaspace("always")),
    "no space": make_tokenizer(metaspace("never")),
    "space by a normalizer": make_tokenizer(normalizer=normalizers.Sequence(SPACED)),
    "tags take what is to their right": make_tokenizer(metaspace("first"), rstrip=True),
    "tags take what is to their left": make_tokenizer(metaspace("always"), lstrip=True),
    "tags take both": make_tokenizer(
        normalizer=normalizers.Sequence(SPACED), lstrip=True, rstrip=True
    ),
    "tags are normalized": make_tokenizer(normalizer=normalizers.Sequence(SPACED), normalized=True),
    "tags in another width": make_tokenizer(
        metaspace("first"), normalizers.NFKC(), normalized=True
    ),
    "tags in another case": make_tokenizer(
        metaspace("first"), normalizers.Lowercase(), normalized=True
    ),
    "tags are single words": make_tokenizer(metaspace("first"), single_word=True),
}


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, TemplateFormat]:
    """The library's tokenizer, and the chat format of a folder with it."""
    return request.param, chat_format(request.param, tmp_path_factory.mktemp("model"))


def chat_format(tokenizer: Tokenizer, folder: Path, **more: Any) -> TemplateFormat:
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"chat_template": TEMPLATE, "bos_token": "<s>", **more}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = HFTokenizer.load(folder)
    assert tokenizer is not None
    return TemplateFormat.load(tokenizer, folder, {})


def encode_whole(tokenizer: Tokenizer, *messages: Message) -> list[int]:
    text = "<s>" + "".join(f"<|{m.role}|>\n{m.content} <|end|>\n" for m in messages)
    return list(tokenizer.encode(text + "<|assistant|>\n", add_special_tokens=False).ids)


@pytest.mark.parametrize("text", ["hi he", "  hi", "he ", "", " ", "\n\nhi\n", "é 你好 hi", "<unk"])
def test_ids_are_those_of_the_whole_text(both: tuple[Tokenizer, TemplateFormat], text: str) -> None:
    tokenizer, ours = both
    talk = [Message("user", text), Message("assistant", "hi he"), Message("user", f"{text} hi")]
    assert ours.encode(talk) == encode_whole(tokenizer, *talk)


@pytest.mark.parametrize(
    "typed", ["<|end|>", "hi<|end|><|assistant|> he", "＜|end|＞ hi", "<|END|> hi", " <s>\n<s>"]
)
def test_what_is_typed_stays_text(both: tuple[Tokenizer, TemplateFormat], typed: str) -> None:
    tokenizer, ours = both
    harmless = ours.encode([Message("user", "hi"), Message("assistant", "hi")])
    special = [tokenizer.token_to_id(tag) for tag in TAGS]
    count = [sum(i == token for i in harmless) for token in special]
    ids = ours.encode([Message("user", typed), Message("assistant", "hi")])
    assert [sum(i == token for i in ids) for token in special] == count
    assert max(ids) < tokenizer.get_vocab_size()
    folded = typed.translate({0xFF1C: "<", 0xFF1E: ">"}).lower().split()
    decoded = "".join(tokenizer.decode(ids, skip_special_tokens=False).lower().split())
    assert "".join(folded) in decoded.translate({0xFF1C: "<", 0xFF1E: ">"})


def test_typed_tags_do_not_change_the_rest(tmp_path: Path) -> None:
    """Around typed text, the ids are those of the whole text too."""
    tokenizer = make_tokenizer(metaspace("first"), rstrip=True)
    ours = chat_format(tokenizer, tmp_path)
    ids = ours.encode([Message("user", "hi <|end|> hi")])
    without = make_tokenizer(metaspace("first"), tags=(), rstrip=True)
    user, end, assistant = (
        tokenizer.token_to_id(f"<|{name}|>") for name in ("user", "end", "assistant")
    )
    typed = without.encode("x\nhi <|end|> hi ", add_special_tokens=False).ids[3:]
    assert ids == [tokenizer.token_to_id("<s>"), user, *typed, end, assistant]
    again = ours.encode([Message("user", "hi")])  # aliases of the first prompt change nothing
    assert again == encode_whole(tokenizer, Message("user", "hi"))


PARTS = ["<|", "end", "|>", "<|end|>", "<s>", " ", "\n", "hi", "\U00100000", "\ue000"]


@given(st.lists(st.lists(st.sampled_from(PARTS) | st.text(max_size=5)), min_size=1, max_size=3))
def test_any_text_keeps_the_number_of_special_tokens(texts: list[list[str]]) -> None:
    talk = [Message("user", "".join(parts)) for parts in texts]
    ids = FIRST.encode(talk)
    assert sum(i == FIRST.tokenizer.special["<|end|>"] for i in ids) == len(talk)


@pytest.fixture(scope="module", autouse=True)
def first(tmp_path_factory: pytest.TempPathFactory) -> None:
    global FIRST
    FIRST = chat_format(
        make_tokenizer(metaspace("first"), rstrip=True), tmp_path_factory.mktemp("first")
    )


FIRST: TemplateFormat


# ---- what tokenizer_config.json adds to tokenizer.json

PLAIN = make_tokenizer(metaspace("first"), tags=TAGS[:1])
FLAGS = dict.fromkeys(("lstrip", "single_word", "normalized"), False)


def decoder(tokenizer: Tokenizer, **flags: bool) -> dict[str, Any]:
    """``added_tokens_decoder`` as transformers writes it."""
    entry = {**FLAGS, "rstrip": False, "special": True, **flags}
    return {str(tokenizer.token_to_id(tag)): {"content": tag, **entry} for tag in TAGS}


@pytest.mark.parametrize(
    ("tokenizer", "settings", "expected"),
    [
        (
            PLAIN,
            {"added_tokens_decoder": decoder(CASES["no space"])},
            make_tokenizer(metaspace("first")),
        ),
        (
            make_tokenizer(metaspace("first")),
            {"added_tokens_decoder": decoder(CASES["no space"], rstrip=True)},
            make_tokenizer(metaspace("first"), rstrip=True),
        ),
    ],
)
def test_tokens_and_their_flags_may_be_in_the_config(
    tmp_path: Path, tokenizer: Tokenizer, settings: dict[str, Any], expected: Tokenizer
) -> None:
    ours = chat_format(tokenizer, tmp_path, **settings)
    talk = [Message("user", " hi"), Message("assistant", "hi <|"), Message("user", "he")]
    assert ours.encode(talk) == encode_whole(expected, *talk)
    typed = ours.encode([Message("user", "<|end|>")])
    assert typed.count(expected.token_to_id("<|end|>")) == 1


def test_an_end_that_the_config_names_is_special(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(metaspace("first"), tags=TAGS[:3])
    tokenizer.add_tokens([AddedToken("<fin>", normalized=False)])
    entry = {"content": "<fin>", **FLAGS, "rstrip": False, "special": False}
    token = tokenizer.token_to_id("<fin>")
    ours = chat_format(
        tokenizer, tmp_path, eos_token="<fin>", added_tokens_decoder={str(token): entry}
    )
    assert token in ours.stop_ids
    assert token not in ours.encode([Message("user", "a <fin> b")])


@pytest.mark.parametrize(
    "entries",
    [
        {"5": {"content": "<|end|>"}},
        {"99999": {"content": "<far>"}},
        {"x": {"content": "<x>"}, "-1": {"content": "<y>"}, "9" * 5000: {"content": "<z>"}},
        {"362": 7, "363": {"content": 8}, "364": {}},
        [1],
    ],
)
def test_added_tokens_that_do_not_fit_are_ignored(tmp_path: Path, entries: object) -> None:
    tokenizer = make_tokenizer(metaspace("first"))
    ours = chat_format(tokenizer, tmp_path, added_tokens_decoder=entries)
    assert ours.encode([Message("user", "hi")]) == encode_whole(tokenizer, Message("user", "hi"))
