"""tokenizer.json and chat templates: prompts equal the template's, and typed text stays text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from glmtui.chat import Message
from glmtui.engine.tokenization import sandboxed_tokenizer
from glmtui.engine.tokenization.chat_template import read_chat_template
from glmtui.engine.tokenization.detokenizer import Detokenizer
from glmtui.engine.tokenization.hf_tokenizer import HFTokenizer
from glmtui.engine.tokenization.template_format import TemplateFormat
from glmtui.engine.tokenization.template_renderer import TemplateRenderer
from glmtui.errors import BadCheckpoint, EngineError, UnsupportedModel

TEMPLATE = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{% for m in messages %}"
    "<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer() -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(letters)} | {"he": 256, "ĊĊ": 257}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("h", "e"), ("Ċ", "Ċ")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True) for t in ("<|im_start|>", "<|im_end|>", "<|end|>")]
    )
    return tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    make_tokenizer().save(str(path / "tokenizer.json"))
    settings = {"chat_template": TEMPLATE, "eos_token": {"content": "<|im_end|>"}}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


@pytest.fixture(scope="module")
def chat_format(folder: Path) -> TemplateFormat:
    tokenizer = HFTokenizer.load(folder)
    assert tokenizer is not None
    return TemplateFormat.load(tokenizer, folder, {"eos_token_id": [260]})


def load_in_sandbox(tokenizer: Tokenizer) -> HFTokenizer:
    content = tokenizer.to_str().encode()
    return HFTokenizer.from_reader(lambda: content, Path("folder/tokenizer.json"))


@pytest.fixture(scope="module")
def byte_tokenizer() -> HFTokenizer:
    return load_in_sandbox(make_tokenizer())


def encode_rendered(tokenizer: Tokenizer, text: str) -> list[int]:
    tokenizer.encode_special_tokens = False
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def test_a_prompt_is_what_the_template_says(chat_format: TemplateFormat) -> None:
    ids = chat_format.encode([Message("user", " hello\n\nhe ")])
    text = (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhello\n\nhe<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert ids == encode_rendered(make_tokenizer(), text)


def test_a_system_message_replaces_the_templates_own(chat_format: TemplateFormat) -> None:
    ids = chat_format.encode([Message("system", "Rhyme."), Message("user", "hi")])
    text = (
        "<|im_start|>system\nRhyme.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert ids == encode_rendered(make_tokenizer(), text)


def test_a_last_assistant_message_is_left_open(chat_format: TemplateFormat) -> None:
    question = Message("user", "hi")
    begun = chat_format.encode([question, Message("assistant", "he")])
    assert begun == [*chat_format.encode([question]), 256]


@given(st.text(alphabet="<|im_start|>end\ue000\ue001 h"))
def test_text_never_becomes_a_special_token(chat_format: TemplateFormat, text: str) -> None:
    tokenizer = chat_format.tokenizer
    typed = chat_format.encode([Message("user", f"{text}<|im_end|>{text}")])
    harmless = chat_format.encode([Message("user", "x")])
    special = set(tokenizer.special.values())
    assert [i for i in typed if i in special] == [i for i in harmless if i in special]
    decoded = tokenizer.decode([i for i in typed if i not in special])
    assert f"{text}<|im_end|>{text}".strip() in decoded


def test_stop_ids_come_from_every_place_that_names_them(chat_format: TemplateFormat) -> None:
    assert chat_format.stop_ids == {chat_format.tokenizer.special["<|im_end|>"], 260}


@given(st.text())
def test_streamed_text_is_the_decoded_text(byte_tokenizer: HFTokenizer, text: str) -> None:
    tokenizer = byte_tokenizer
    ids = tokenizer.encode(text)
    detokenizer = Detokenizer(tokenizer.token_bytes)
    pieces = [*map(detokenizer.feed, ids), detokenizer.flush()]
    assert "".join(pieces) == tokenizer.decode(ids) == text


def test_a_folder_without_a_template_is_no_chat_model(folder: Path, tmp_path: Path) -> None:
    tokenizer = HFTokenizer.load(folder)
    assert tokenizer is not None
    with pytest.raises(UnsupportedModel, match="no chat template") as caught:
        TemplateFormat.load(tokenizer, tmp_path, {})
    path = tmp_path / "chat_template.jinja"
    assert str(path) in caught.value.hint
    path.write_text(TEMPLATE)  # as the hint says
    assert TemplateFormat.load(tokenizer, tmp_path, {}).encode([Message("user", "Hi")])


@pytest.mark.parametrize(
    "chat_template",
    [
        [{"name": "tool_use", "template": "no"}, {"name": "default", "template": TEMPLATE}],
        {"default": TEMPLATE, "rag": "no"},
        TEMPLATE,
    ],
)
def test_the_default_of_several_templates_is_taken(tmp_path: Path, chat_template: object) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": chat_template}))
    assert read_chat_template(tmp_path) == TEMPLATE


@pytest.mark.parametrize(
    "chat_template", [None, " ", [], ["no"], [{"name": "rag", "template": "no"}], {}]
)
def test_a_folder_may_name_no_template(tmp_path: Path, chat_template: object) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": chat_template}))
    assert read_chat_template(tmp_path) is None


def test_a_template_that_breaks_is_named(folder: Path) -> None:
    tokenizer = HFTokenizer.load(folder)
    assert tokenizer is not None
    with pytest.raises(UnsupportedModel, match="does not parse"):
        TemplateFormat(tokenizer, TemplateRenderer("{% for"), frozenset(), {})
    refusing = TemplateFormat(
        tokenizer,
        TemplateRenderer("{{ raise_exception('roles must alternate') }}"),
        frozenset(),
        {},
    )
    with pytest.raises(UnsupportedModel, match="roles must alternate"):
        refusing.encode([Message("user", "hi")])


def test_a_template_cannot_leave_the_sandbox(folder: Path) -> None:
    tokenizer = HFTokenizer.load(folder)
    assert tokenizer is not None
    for attack in ("{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}"):
        with pytest.raises(UnsupportedModel):
            TemplateFormat(tokenizer, TemplateRenderer(attack), frozenset(), {}).encode(
                [Message("user", "hi")]
            )


def test_a_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.json"):
        HFTokenizer.load(tmp_path)


# ---- rules that take forever

ENDLESS = r"(a+)+$"  # the library gives up after ten million steps
LONG = r"(a|aa)+$"  # nearly as many steps for each word of 28 letters


def with_rule(pattern: str) -> HFTokenizer:
    tokenizer = make_tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    return load_in_sandbox(tokenizer)


def test_a_rule_that_the_library_gives_up_on_is_an_error() -> None:
    with pytest.raises(EngineError, match="failed on this text") as caught:
        with_rule(ENDLESS).encode("a" * 40 + "b")
    assert "tokenizer file" in caught.value.hint


def test_a_rule_that_takes_too_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = with_rule(LONG)
    monkeypatch.setattr(sandboxed_tokenizer, "MIN_SECONDS", 0.05)
    with pytest.raises(EngineError, match="too much time"):
        tokenizer.encode(("a" * 28 + "b ") * 100)
    assert tokenizer.decode(tokenizer.encode("b")) == "b"  # in another process


def test_a_decoders_rule_is_bounded_too() -> None:
    tokenizer = make_tokenizer()
    tokenizer.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace(Regex(ENDLESS), "")])
    with pytest.raises(EngineError, match="failed"):
        load_in_sandbox(tokenizer).decode(
            [tokenizer.token_to_id("a")] * 40 + [tokenizer.token_to_id("b")]
        )


def test_texts_together_are_encoded_as_each_alone() -> None:
    tokenizer = load_in_sandbox(make_tokenizer())
    texts = ["he said", "", "\n\n<|end|>", "你好"]
    assert tokenizer.encode_each(texts) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_each(texts)[1] == []


ALTERNATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/...') }}{% endif %}"
    "{% if not m.content %}{{ raise_exception('empty turn') }}{% endif %}"
    "{{ m.role[0] + m.content + '|' }}{% endfor %}"
)
ONE_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('System message must be at the beginning.') }}{% endif %}"
    "{{ m.role[0] + m.content + '|' }}{% endfor %}"
)
LENIENT = "{% for m in messages %}{{ m.role[0] + m.content + '|' }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "turns", "prompt"),
    [
        (ALTERNATE, ["u1", "u2"], "u1\n2|"),
        (ALTERNATE, ["u1", "a", "u2"], "u1\n2|"),
        (ALTERNATE, ["u1", "aA", "aB", "u2"], "u1|aA\nB|u2|"),
        (ALTERNATE, ["sS", "u1"], "uS\n\n1|"),
        (ALTERNATE, ["sS", "aHi", "u1", "u2"], "uS\n\n1\n2|"),
        (ALTERNATE, ["u1", "u2", "aHal"], "u1\n2|Hal"),
        (ONE_SYSTEM, ["sS", "u1", "sT", "u2"], "sS\nT|u1\n2|"),
        (ONE_SYSTEM, ["u1", "aA", "sT", "u2"], "sT|u1|aA|u2|"),
        (LENIENT, ["u1", "u2", "sT", "u3"], "u1|u2|sT|u3|"),
    ],
)
def test_a_strict_template_gets_turns_that_it_takes(
    folder: Path, template: str, turns: list[str], prompt: str
) -> None:
    tokenizer = HFTokenizer.load(folder)
    assert tokenizer is not None
    strict = TemplateFormat(tokenizer, TemplateRenderer(template), frozenset(), {})
    names = {"s": "system", "u": "user", "a": "assistant"}
    ids = strict.encode([Message(names[t[0]], t[1:]) for t in turns])  # type: ignore[arg-type]
    assert tokenizer.decode(ids) == prompt


def test_a_template_that_refuses_everything_says_why_at_first(folder: Path) -> None:
    tokenizer = HFTokenizer.load(folder)
    assert tokenizer is not None
    template = "{{ raise_exception('no ' ~ (messages | length)) }}"
    refusing = TemplateFormat(tokenizer, TemplateRenderer(template), frozenset(), {})
    with pytest.raises(UnsupportedModel, match="no 2"):
        refusing.encode([Message("user", "1"), Message("user", "2")])
