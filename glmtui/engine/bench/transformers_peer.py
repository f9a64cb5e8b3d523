"""TransformersPeer: the same weights in transformers, unpacked to 16 bits.

Uses `generate` of LlamaForCausalLM and of GlmForCausalLM (ChatGLM2, ChatGLM3, GLM-4).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.generation import BaseStreamer

from glmtui.engine.bench.bench_engine import BenchTarget, EngineStart, TimedReply
from glmtui.engine.bench.random_weights import random_matrix
from glmtui.engine.bench.shapes import SHAPES
from glmtui.engine.catalog.model_folder import read_config
from glmtui.engine.checkpoint.checkpoint import Checkpoint
from glmtui.engine.hardware.memory import peak_memory
from glmtui.engine.loading.load_spec import gpu_capability, pick_device, pick_dtype, stored_dtype
from glmtui.engine.models.model_family import import_family
from glmtui.engine.nn.packed_weight import to_dense
from glmtui.errors import UnsupportedModel
from glmtui.language import _

LLAMA_FAMILIES, GLM_FAMILIES = ("llama",), ("chatglm2", "chatglm3", "glm4")


class TransformersPeer:
    """A model in transformers. Raises UnsupportedModel if transformers has no class for it."""

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
            weights = hub_tensors(key, raw, checkpoint, dtype)
        else:
            weights = random_tensors(self._model, dtype, self._device)
        load_weights(self._model, weights, self._device)
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
        times = _TokenTimes()
        started = time.perf_counter()
        self._model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, streamer=times
        )
        # the first value is the prompt
        first, last = times.seconds[1], times.seconds[-1]
        return TimedReply(first - started, last - first, tuple(times.ids[len(prompt) :]))

    def peak_memory(self) -> int | None:
        return peak_memory([self._device])


class _TokenTimes(BaseStreamer):  # type: ignore[misc]
    """Records when each token arrives."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.ids: list[int] = []

    def put(self, value: Tensor) -> None:
        self.ids += value.flatten().tolist()
        self.seconds.append(time.perf_counter())

    def end(self) -> None:
        pass  # nothing is buffered


def empty_model(key: str, raw: Mapping[str, Any]) -> Any:
    """The transformers model for a config.json, on the meta device; greedy, and without end ids."""
    if key in LLAMA_FAMILIES:
        config, kind = transformers.LlamaConfig(**raw), transformers.LlamaForCausalLM
    elif key in GLM_FAMILIES:
        config, kind = _glm_config(key, raw), transformers.GlmForCausalLM
    else:
        raise UnsupportedModel(
            _("transformers has no class for the family {key}.").format(key=key),
            _("It can be compared with Llama-shaped models, ChatGLM2, ChatGLM3 and GLM-4."),
        )
    with torch.device("meta"):
        model = kind(config).eval()
    model.generation_config = transformers.GenerationConfig(do_sample=False, pad_token_id=0)
    return model


def _glm_config(key: str, raw: Mapping[str, Any]) -> Any:
    ours = import_family(key).load_config(raw)
    if ours.position_scale != 1:
        raise UnsupportedModel(
            _("GlmForCausalLM in transformers does not support this model's scaled positions."),
            _("Use ChatGLM2-6B instead of ChatGLM2-6B-32k; it needs the same computation."),
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


def hub_tensors(
    key: str, raw: Mapping[str, Any], checkpoint: Checkpoint, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """The unpacked weights of a checkpoint, by their names in transformers."""
    family = import_family(key)
    config = family.load_config(raw)
    qkv_rows = [n * config.head_dim for n in (config.heads, config.kv_heads, config.kv_heads)]
    gate_up_rows = [config.inner, config.inner]
    for ours, source in family.weight_sources(config).items():
        path, _, kind = ours.rpartition(".")
        weight = to_dense(checkpoint.read_source(source), dtype)
        checkpoint.close()
        layer, _, module = path.removeprefix("layers.").partition(".")
        prefix = f"model.layers.{layer}."
        if module == "attention.qkv":
            for name, part in zip("qkv", weight.split_with_sizes(qkv_rows), strict=True):
                yield f"{prefix}self_attn.{name}_proj.{kind}", part
        elif module == "gate_up" and key in LLAMA_FAMILIES:
            for name, part in zip(
                ("gate", "up"), weight.split_with_sizes(gate_up_rows), strict=True
            ):
                yield f"{prefix}mlp.{name}_proj.{kind}", part
        elif module:
            yield f"{prefix}{LAYER_MODULES[module]}.{kind}", weight
        else:
            yield f"{TOP_MODULES[path]}.{kind}", weight


TOP_MODULES = {"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
LAYER_MODULES = {
    "attention_norm": "input_layernorm",
    "attention.out": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "gate_up": "mlp.gate_up_proj",
    "down": "mlp.down_proj",
}


def random_tensors(
    model: nn.Module, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[str, Tensor]]:
    """Random weights for a model on the meta device."""
    for name, empty in model.state_dict().items():
        if empty.ndim == 1:
            yield name, torch.ones(empty.shape, dtype=dtype, device=device)
        else:
            yield name, random_matrix(empty.shape, dtype, device)


def load_weights(model: Any, weights: Iterable[tuple[str, Tensor]], device: torch.device) -> None:
    model.load_state_dict({name: tensor.to(device) for name, tensor in weights}, assign=True)
    model.tie_weights()
    # its buffers are not in the state dict, so they are still on the meta device
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config).to(device)
