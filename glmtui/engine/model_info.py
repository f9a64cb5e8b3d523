"""Models: found on disk or at a server, the options to load them with, and in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from glmtui.chat import SamplingParams


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model found on this machine.

    Attributes:
        name: what a person types to get it: a known name, a hub id, or a folder.
        path: the folder that holds config.json and the weights.
        family: a key of `catalog.FAMILIES`.
        context_length: longest prompt and reply together, in tokens.
        nbytes: size of the weight files.
        stored: how the weights are kept there, such as "float16" or "int4 g32".
        code: Python files that its config asks to be run (auto_map); they never are.
    """

    name: str
    path: Path
    family: str
    context_length: int
    nbytes: int
    stored: str
    title: str = ""
    parameters: int | None = None
    code: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """An OpenAI-compatible server: `url` ends before ``/chat/completions``.

    Attributes:
        model: the model to ask for there; empty takes the first the server lists.
        api_key: sent as a bearer token; never shown, logged or saved.
    """

    url: str
    model: str = ""
    api_key: str = field(default="", repr=False)


Target: TypeAlias = ModelInfo | ServerSpec


Speculation: TypeAlias = Literal["auto", "on", "off"]
"""Guesses at the next tokens: while faster (on one GPU never), always, never. Replies are alike."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a model should be held in memory.

    Attributes:
        device: "auto", "cpu", "cuda", "cuda:N" or "balanced".
        dtype: "auto", "float32", "bfloat16" or "float16"; of activations and unquantised weights.
        quant: "auto" keeps the weights as they are stored; None unpacks them to `dtype`; else a
            key of `catalog.QUANTS`.
        context_length: room in the KV cache, in tokens; None takes the model's own.
        family: a key of `catalog.FAMILIES` that overrides what the folder looks like.
        slim: leave the image tokens of an original ChatGLM-6B out; their logits become the least.
        kernel: one of `known.KERNELS`, for packed weights on a GPU.
        cache_gb: memory for the KV caches of several conversations, in GB; None takes a share of
            what is free once the model is loaded.
        speculation: whether to guess the next tokens from the conversation; see `Speculation`.
    """

    device: str = "auto"
    dtype: str = "auto"
    quant: str | None = "auto"
    context_length: int | None = None
    family: str | None = None
    slim: bool = True
    kernel: str = "auto"
    cache_gb: float | None = None
    speculation: Speculation = "auto"


@dataclass(frozen=True, slots=True)
class LoadedInfo:
    """A model that is ready to answer.

    Attributes:
        device: where it runs: "cpu", "cuda:0", "cuda:0 + cuda:1", or a server's address.
        dtype: of its activations; empty for a server.
        quant: how its weights are held, such as "int4 g32"; empty where they are not quantised.
        kernel: what multiplies with them on a GPU, such as "triton"; empty elsewhere.
        context_length: None where a server does not say.
        weight_bytes, kv_bytes_per_token: memory, the latter of the KV cache; None for a server.
        saved_bytes: memory that leaving out unused rows of the checkpoint saved.
        defaults: the model's own sampling parameters.
        backend: "native" is our engine, "compatibility" is transformers, "server" is elsewhere.
        why_compatible: the field for which transformers runs a model of a family of ours.
        calls_tools: whether tools can be declared to it (`chat.with_tools`).
    """

    name: str
    device: str
    dtype: str = ""
    quant: str = ""
    kernel: str = ""
    context_length: int | None = None
    weight_bytes: int | None = None
    kv_bytes_per_token: int | None = None
    saved_bytes: int = 0
    load_seconds: float = 0.0
    defaults: SamplingParams = field(default_factory=SamplingParams)
    backend: Literal["native", "compatibility", "server"] = "native"
    why_compatible: str = ""
    calls_tools: bool = False
