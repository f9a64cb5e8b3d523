"""transformers' generate on the same weights, unpacked to 16 bits: LlamaForCausalLM and
GlmForCausalLM (ChatGLM2, ChatGLM3, GLM-4), as one who uses transformers would call it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.generation import BaseStreamer

from glmtui.engine.bench.plan import BenchTarget, EngineStart, TimedReply
from glmtui.engine.bench.shapes import SHAPES
from glmtui.engine.bench.synthetic import random_matrix
from glmtui.engine.catalog.model_folder import read_config
from glmtui.engine.checkpoint.checkpoint import Checkpoint
from glmtui.engine.hardware.memory import peak_memory
from glmtui.engine.loading.loader import (
    family_module,
    gpu_capability,
    pick_device,
    pick_dtype,
    stored_dtype,
)
from glmtui.engine.nn.packed_weight import to_dense
from glmtui.errors import UnsupportedModel
from glmtui.language import _

LLAMA, GLM = ("llama",), ("chatglm2", "chatglm3", "glm4")


class TransformersPeer:
    """A model in transformers. Raises UnsupportedModel for families it has no class for."""

    def __init__(self, target: BenchTarget) -> None:
        started = time.perf_counter()
        torch.set_num_threads(target.threads)
        self._device = pick_device(target.options.device)
        if target.model is not None:
            key = target.options.family or target.model.family
            raw: Mapping[str, Any] = read_config(target.model.path)
        else:
            key, raw = SHAPES[target.synthetic].family, SHAPES[target.synthetic].config
        dtype = pick_dtype(
            target.options.dtype,
            self._device,
            stored_dtype(raw),
            gpu_capability(target.options.device),
        )
        self._model = empty_model(key, raw)
        if target.model is not None:
            checkpoint = Checkpoint(target.model.path, raw)
            fill(self._model, tensors(key, raw, checkpoint, dtype), self._device)
        else:
            fill(self._model, random_tensors(self._model, dtype, self._device), self._device)
        config = self._model.config
        self.start = EngineStart(
            engine="transformers",
            device=str(self._device),
            dtype=str(dtype).removeprefix("torch."),
            quant="",
            version=f"{transformers.__version__}, torch {torch.__version__}",
            reuses=False,
            load_seconds=time.perf_counter() - started,
            context_length=config.max_position_embeddings,
            vocabulary=(0, config.vocab_size),
        )

    def generate(self, prompt: Sequence[int], tokens: int) -> TimedReply:
        ids = torch.tensor([list(prompt)], device=self._device)
        clock = _Clock()
        started = time.perf_counter()
        self._model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, streamer=clock
        )
        # the first that comes is the prompt
        first, last = clock.times[1], clock.times[-1]
        return TimedReply(first - started, last - first, tuple(clock.ids[len(prompt) :]))

    def peak_memory(self) -> int | None:
        return peak_memory([self._device])


class _Clock(BaseStreamer):  # type: ignore[misc]
    """Notes when tokens come."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.ids: list[int] = []

    def put(self, value: Tensor) -> None:
        self.ids += value.flatten().tolist()
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass  # nothing is held back


def empty_model(key: str, raw: Mapping[str, Any]) -> Any:
    """transformers' model of a family and config.json, on the meta device; greedy, without end."""
    if key in LLAMA:
        config, kind = transformers.LlamaConfig(**raw), transformers.LlamaForCausalLM
    elif key in GLM:
        config, kind = _glm_config(key, raw), transformers.GlmForCausalLM
    else:
        raise UnsupportedModel(
            _("transformers has no class of its own for the family {key}.").format(key=key),
            _("It can be compared on Llama-shaped models, ChatGLM2, ChatGLM3 and GLM-4."),
        )
    with torch.device("meta"):
        model = kind(config).eval()
    model.generation_config = transformers.GenerationConfig(do_sample=False, pad_token_id=0)
    return model


def _glm_config(key: str, raw: Mapping[str, Any]) -> Any:
    ours = family_module(key).load_config(raw)
    if ours.position_scale != 1:
        raise UnsupportedModel(
            _("transformers' GlmForCausalLM has no stretched positions, as this model has them."),
            _("Compare it on ChatGLM2-6B without -32k, which computes the same."),
        )
    return transformers.GlmConfig(
        vocab_size=ours.vocab,
        hidden_size=ours.hidden,
        intermediate_size=ours.inner,
        num_hidden_layers=ours.layers,
        num_attention_heads=ours.heads,
        num_key_value_heads=ours.kv_heads,
        head_dim=ours.head_dim,
        attention_bias=ours.qkv_bias,
        max_position_embeddings=ours.context_length,
        rms_norm_eps=ours.rms_norm_eps,
        pad_token_id=0,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": ours.rope_base,
            "partial_rotary_factor": 0.5,
        },
    )


def tensors(
    key: str, raw: Mapping[str, Any], checkpoint: Checkpoint, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """A checkpoint's weights, unpacked, by the names that transformers gives them."""
    family = family_module(key)
    config = family.load_config(raw)
    groups = config.kv_heads
    heights = [n * config.head_dim for n in (config.heads, groups, groups)]
    halves = [config.inner, config.inner]
    for ours, rows in family.sources(config).items():
        path, _, kind = ours.rpartition(".")
        weight = to_dense(checkpoint.read_source(rows), dtype)
        checkpoint.close()
        layer, _, module = path.removeprefix("layers.").partition(".")
        within = f"model.layers.{layer}."
        if module == "attention.qkv":
            for name, part in zip("qkv", weight.split_with_sizes(heights), strict=True):
                yield f"{within}self_attn.{name}_proj.{kind}", part
        elif module == "gate_up" and key in LLAMA:
            for name, part in zip(("gate", "up"), weight.split_with_sizes(halves), strict=True):
                yield f"{within}mlp.{name}_proj.{kind}", part
        elif module:
            yield f"{within}{MODULES[module]}.{kind}", weight
        else:
            yield f"{TOP[path]}.{kind}", weight


TOP = {"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
MODULES = {
    "attention_norm": "input_layernorm",
    "attention.out": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "gate_up": "mlp.gate_up_proj",
    "down": "mlp.down_proj",
}


def random_tensors(
    model: nn.Module, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[str, Tensor]]:
    """Weights for a model on the meta device that mean nothing."""
    for name, empty in model.state_dict().items():
        if empty.ndim == 1:
            yield name, torch.ones(empty.shape, dtype=dtype, device=device)
        else:
            yield name, random_matrix(empty.shape, dtype, device)


def fill(model: Any, weights: Iterable[tuple[str, Tensor]], device: torch.device) -> None:
    """Gives a model on the meta device its weights."""
    model.load_state_dict({name: tensor.to(device) for name, tensor in weights}, assign=True)
    model.tie_weights()
    # what the meta device has no values for
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config).to(device)
