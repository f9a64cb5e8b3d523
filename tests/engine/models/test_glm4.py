"""GLM-4-9B: its tiktoken vocabulary, its prompts, and the layout of Hugging Face's GlmForCausalLM.

Its logits in the original layout are checked with the other families'.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glmtui.chat import Message, SamplingParams
from glmtui.engine.models import glm4
from glmtui.engine.models.glm4 import JsonToolFormat
from glmtui.engine.tokenization.detokenizer import Detokenizer
from glmtui.engine.tokenization.tiktoken_tokenizer import TiktokenTokenizer
from glmtui.errors import BadCheckpoint, UnsupportedModel
from support.goldens import LOGIT_TOLERANCE, load_float32, released_tokenizer

MERGES = [
    b"th",
    b"he",
    b"the",
    b" t",
    b" the",
    b"in",
    b"ing",
    b"\n\n",
    "你".encode(),
    "你好".encode(),
]
STOPS = frozenset({258, 265, 267})


def vocabulary() -> bytes:
    """A tiktoken file: every byte, then a few merges."""
    first = [bytes([byte]) for byte in range(256)]
    halfway = ["你".encode()[:2], "好".encode()[:2], "好".encode()]
    pieces = dict.fromkeys([*first, *halfway, *MERGES])
    lines = [base64.b64encode(piece) + b" %d" % rank for rank, piece in enumerate(pieces)]
    return b"\n".join(lines) + b"\n"


@pytest.fixture(scope="module")
def tiktoken(tmp_path_factory: pytest.TempPathFactory) -> TiktokenTokenizer:
    path = tmp_path_factory.mktemp("ranks") / "tokenizer.model"
    path.write_bytes(vocabulary())
    tokenizer = TiktokenTokenizer.load(path, glm4.SPECIAL_TOKENS, glm4.SPLIT_PATTERN)
    assert tokenizer is not None
    return tokenizer


def streamed(tokenizer: TiktokenTokenizer, ids: list[int]) -> str:
    detokenizer = Detokenizer(tokenizer.token_bytes)
    return "".join(map(detokenizer.feed, ids)) + detokenizer.flush()


@settings(deadline=None)
@given(st.text(max_size=80))
def test_text_survives_a_round_trip(tiktoken: TiktokenTokenizer, text: str) -> None:
    ids = tiktoken.encode(text)
    assert tiktoken.decode(ids) == streamed(tiktoken, ids) == text
    assert not set(ids) & set(tiktoken.special.values())


def test_special_tokens_follow_the_ranks_and_are_decoded(
    tiktoken: TiktokenTokenizer,
) -> None:
    last = max(tiktoken.encode("你好the"))
    assert min(tiktoken.special.values()) > last
    assert tiktoken.special["<|observation|>"] == tiktoken.special["<|endoftext|>"] + 9
    text = "<|user|>[gMASK]<sop>"
    assert tiktoken.decode(tiktoken.encode(text)) == text
    assert len(tiktoken.encode("<|user|>")) > 1
    assert tiktoken.decode([tiktoken.special["<|assistant|>"], 10**6, -1]) == "<|assistant|>"
    assert tiktoken.token_bytes(tiktoken.special["<|assistant|>"]) == b"<|assistant|>"
    assert tiktoken.token_bytes(10**6) == tiktoken.token_bytes(-1) == b""


def test_prompts_are_roles_with_a_line_of_metadata(tiktoken: TiktokenTokenizer) -> None:
    form = JsonToolFormat(
        tiktoken,
        ("[gMASK]", "<sop>"),
        frozenset({tiktoken.special["<|endoftext|>"]}),
    )
    talk = [Message("user", "你好"), Message("assistant", "the", metadata="f"), Message("user", "")]
    # newlines of the content are not merged with that of the metadata line
    talk.append(Message("assistant", "\nin"))
    assert tiktoken.decode(form.encode(talk)) == (
        "[gMASK]<sop><|user|>\n你好<|assistant|>f\nthe<|user|>\n<|assistant|>\n\nin"
    )
    assert tiktoken.encode("\n\n")[0] not in form.encode(talk)
    assert form.encode(talk[:1])[-1] == tiktoken.special["<|assistant|>"]
    ends = ("<|endoftext|>", "<|user|>", "<|observation|>")
    assert form.stop_ids == {tiktoken.special[tag] for tag in ends}


def test_calls_are_json(tiktoken: TiktokenTokenizer) -> None:
    form = JsonToolFormat(tiktoken, ("[gMASK]", "<sop>"), frozenset())
    (message,) = form.messages('get_weather\n{"city": "北京"}')
    call = form.tool_call(message)
    assert call is not None
    assert (call.name, call.arguments) == ("get_weather", {"city": "北京"})
    assert form.postprocess("\n 你好 ") == "你好"
    assert form.tools_prompt([{"name": "f"}]).startswith("你是一个名为 GLM-4 的人工智能助手。")


def test_the_released_vocabulary() -> None:
    """Expected ids from li-plus/chatglm.cpp (chatglm_test.cpp, TEST(Pipeline, ChatGLM4))."""
    path = released_tokenizer("glm-4-9b", "tokenizer.model")
    tokenizer = TiktokenTokenizer.load(path, glm4.SPECIAL_TOKENS, glm4.SPLIT_PATTERN)
    assert tokenizer is not None
    assert tokenizer.special["<|endoftext|>"] == 151329
    assert tokenizer.special["<|observation|>"] == 151338
    form = JsonToolFormat(tokenizer, ("[gMASK]", "<sop>"), frozenset({151329, 151336, 151338}))
    assert form.stop_ids == {151329, 151336, 151338}
    talk = [Message("user", "你好")]
    assert form.encode(talk) == [151331, 151333, 151336, 198, 109377, 151337]
    talk.append(Message("assistant", "你好👋！很高兴见到你，有什么可以帮助你的吗？"))
    talk.append(Message("user", "晚上睡不着应该怎么办"))
    hello = [109377, 9281, 239, 233, 6313, 118295, 103810, 98406, 3837, 101665, 110368]
    hello += [99444, 99212, 11314]
    question = [101160, 120410, 99379, 103298]
    assert form.encode(talk) == [
        *(151331, 151333, 151336, 198, 109377, 151337, 198),
        *hello,
        *(151336, 198),
        *question,
        151337,
    ]
    text = "3 33 333 3333 33333 3.3 I've 'RE We'Ve a'lL"
    ids = [18, 220, 100702, 220, 121577, 220, 121577, 18, 220, 121577, 100702, 220, 18, 13, 18]
    ids += [358, 3003, 364, 787, 1205, 6, 42368, 264, 63409, 43]
    assert tokenizer.encode(text) == ids
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a vocabulary\n",
        b"IQ== 0\nIg== 2\n",
        b"IQ== 0\nIg==\n",
        b"\xff\xfe\n",
        b"IQ== x\n",
    ],
)
def test_a_damaged_vocabulary_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.model"):
        TiktokenTokenizer.load(path, glm4.SPECIAL_TOKENS, glm4.SPLIT_PATTERN)


def test_sampling_defaults_are_those_of_the_original(tmp_path: Path) -> None:
    assert glm4.load_tokenizer(tmp_path, {}) is None
    assert glm4.sampling_defaults(tmp_path, {}) == SamplingParams(
        0.8, 50, 0.8, None, True, None, 8192
    )


# ---- the -hf layout


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model as transformers saves it, with a tokenizer.json of single bytes."""
    from transformers import GlmConfig, GlmForCausalLM

    torch.manual_seed(7)
    config = GlmConfig(
        vocab_size=300,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        attention_bias=True,
        max_position_embeddings=512,
        rms_norm_eps=1.5625e-7,
        pad_token_id=0,
        eos_token_id=[256, 263, 265],
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 5e6,
            "partial_rotary_factor": 0.5,
        },
    )
    model = GlmForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("hf") / "glm-4-9b-chat-hf"
    model.save_pretrained(folder)

    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    byte_tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[])
    )
    byte_tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_tokenizer.decoder = tokenizers.decoders.ByteLevel()
    byte_tokenizer.add_special_tokens(list(glm4.SPECIAL_TOKENS))
    byte_tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_logits_and_replies_are_those_of_transformers(hf_folder: Path) -> None:
    from transformers import GlmForCausalLM

    ours, theirs = load_float32(hf_folder), GlmForCausalLM.from_pretrained(hf_folder).eval()
    ids = torch.randint(256, (40,), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = theirs(ids[None]).logits[0]
        greedy = theirs.generate(ids[None], max_new_tokens=12, do_sample=False)[0, 40:]
    assert float((ours.logits(ids.tolist()) - expected).abs().max()) <= LOGIT_TOLERANCE["gl"]
    stream = ours.stream_ids(ids.tolist(), SamplingParams(temperature=0, max_new_tokens=12))
    assert list(stream.ids()) == greedy.tolist()


def test_its_prompts_are_those_of_the_original_layout(hf_folder: Path) -> None:
    model = load_float32(hf_folder)
    ids = model.chat_format.encode([Message("user", "hi<sop>")])
    byte_tokenizer = model.tokenizer
    marks = byte_tokenizer.special
    assert ids[:3] == [marks["[gMASK]"], marks["<sop>"], marks["<|user|>"]]
    assert ids[3:-1] == byte_tokenizer.encode("\nhi<sop>")
    assert ids[-1] == marks["<|assistant|>"]
    assert model.chat_format.stop_ids == {256, 263, 265}


def test_ends_are_those_of_the_releases_where_a_file_names_none(hf_folder: Path) -> None:
    raw = json.loads((hf_folder / "config.json").read_bytes())
    assert glm4.stop_ids(raw) == set(raw["eos_token_id"])
    del raw["eos_token_id"]
    assert glm4.stop_ids(raw) == {151329, 151336, 151338}


def test_rotary_positions_of_another_kind_are_refused(hf_folder: Path) -> None:
    raw = json.loads((hf_folder / "config.json").read_bytes())
    assert glm4.load_config(raw).rope_base == 5e6
    older = {key: value for key, value in raw.items() if key != "rope_parameters"}
    older |= {"rope_theta": 1e4, "partial_rotary_factor": 0.5}
    assert glm4.load_config(older).rope_base == 1e4
    for rope in ({"rope_type": "yarn"}, {"partial_rotary_factor": 1.0}):
        changed = {**raw["rope_parameters"], **rope}
        with pytest.raises(UnsupportedModel, match="rotary"):
            glm4.load_config(raw | {"rope_parameters": changed})
