"""What a model folder's config.json may say: tiny models with other numbers, loaded and asked."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

from fuzz_folder import desk

from glmtui.engine.catalog.model_folder import inspect_folder
from support import TESTS

# What a config.json is edited to, beside the fields that it has.
VALUES: tuple[object, ...] = (
    *(0, 1, 2, 3, 4, 5, 16, 63, 64, 512, 1023, 1024, -1, -2, -(10**9), 1 << 17, 1 << 24, 1 << 31),
    *(1 << 53, 1 << 63, 10**30, 0.0, 0.5, 1.0, 2.0, 1e-320, 1e15, 1e300, -1.5),
    *(float("nan"), float("inf"), -float("inf"), True, False, None),
    *("", "silu", "gelu", "default", "linear", "longrope", "bfloat16", "\ud800", "x" * 5000),
    *([], [1], [None], [[]], [2] * 5000, {}, {"": {}}, {"rope_type": "linear", "factor": 2.0}),
    *({"rope_type": "yarn"}, {"rope_theta": 0}, {"full_attention": {"rope_type": "dynamic"}}),
)
NAMES = (
    *("architectures", "auto_map", "text_config", "rope_scaling", "rope_parameters", "rope_theta"),
    *("head_dim", "num_key_value_heads", "hidden_act", "quantization_config", "quantization_bit"),
    *("pre_seq_len", "sliding_window", "num_experts", "partial_rotary_factor", "layer_types"),
    *("_name_or_path", "model_type", "eos_token_id", "attention_bias", "torch_dtype"),
)
MODELS = {
    "llama": "",
    "qwen2": "",  # of transformers' own
    "glm": "",
    "chatglm": "v1_tiny_sharded_fp16",
    "chatglm2": "v2_int4",
    "chatglm3": "v3_32k_tiny",
    "glm4": "glm4_tiny",
}


@cache
def sound_model(kind: str) -> tuple[Path, bytes]:
    """A folder on the desk with a tiny model of that kind, and its config.json."""
    from support.checkpoints import llama_files, write_folder
    from support.tiny_models import make

    folder = desk() / f"model-{kind}"
    if MODELS[kind]:
        shutil.copytree(TESTS / "goldens" / "models" / MODELS[kind], folder)
    elif kind == "llama":
        write_folder(folder, llama_files())
    else:
        make(folder, kind)
    return folder, (folder / "config.json").read_bytes()


def take_model(data: bytes) -> None:
    """The first byte picks a model; then comes its config.json, or edits of three bytes each."""
    from glmtui.chat import SamplingParams
    from glmtui.engine.loading.loader import load
    from glmtui.engine.model_info import LoadOptions

    folder, sound = sound_model(list(MODELS)[data[0] % len(MODELS)] if data else "llama")
    text = data[1:] if data[1:2] == b"{" else edited(sound, data[1:])
    (folder / "config.json").write_bytes(text)
    info = inspect_folder(folder)
    model = load(info, LoadOptions(device="cpu", dtype="float32", quant=None))
    try:
        ids = [model.model.vocab_size - 1, model.model.first_token_id]
        if not model.model.causal:  # a prefix decoder's prompts have marks
            marks = model.model.config.marks
            ids += [marks.gmask, marks.sop]
        model.logits(ids)
        list(model.stream_ids(ids, SamplingParams(temperature=0, max_new_tokens=3)).ids())
    finally:
        model.close()


def edited(sound: bytes, edits: bytes) -> bytes:
    """A config.json with other values: for each three bytes of which field, which, and how."""
    config = json.loads(sound)
    names = (*sorted(config), *NAMES)
    for at in range(0, len(edits) - 2, 3):
        where, value, how = edits[at : at + 3]
        name, new = names[where % len(names)], VALUES[value % len(VALUES)]
        if how % 8 == 0:
            config.pop(name, None)
        elif how % 8 == 1 and isinstance(config.get(name), int):
            config[name] += how - 128
        else:
            config[name] = new
    return json.dumps(config).encode()


def models() -> dict[str, bytes]:
    seeds = {kind: bytes([n]) + sound_model(kind)[1] for n, kind in enumerate(MODELS)}
    plain = {"llama-edited": bytes([0, 0, 0, 8]), "qwen2-edited": bytes([1, 0, 0, 8])}
    return seeds | plain
