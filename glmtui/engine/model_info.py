"""Models: found on disk or at a server, the options to load them with, and loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from glmtui.chat import SamplingParams


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model on this machine.

    Attributes:
        name: what the user types to select it: a known name, a hub id, or a folder.
        path: the folder with config.json and the weights.
        family: a key of `catalog.families.FAMILIES`.
        context_length: most tokens of prompt and reply together.
        nbytes: size of the weight files.
        stored: format of the weights on disk, such as "float16" or "int4 g32".
        code: Python files that its config wants to run (auto_map); they are never run.
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
    """An OpenAI-compatible server; `url` is what comes before ``/chat/completions``.

    Attributes:
        model: the model to request; empty means the first that the server lists.
        api_key: sent as a bearer token; never shown, logged or saved.
    """

    url: str
    model: str = ""
    api_key: str = field(default="", repr=False)


Target: TypeAlias = ModelInfo | ServerSpec


Speculation: TypeAlias = Literal["auto", "on", "off"]
"""Prompt-lookup decoding: while it is faster (on a single GPU never), always, or never. It does not
change replies."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load a model.

    Attributes:
        device: "auto", "cpu", "cuda", "cuda:N" or "balanced".
        dtype: "auto", "float32", "bfloat16" or "float16"; of activations and unquantised weights.
        quant: "auto" keeps the weights as they are stored; None unpacks them to `dtype`; else a
            key of `catalog.quants.QUANTS`.
        context_length: size of the KV cache, in tokens; None means the model's own.
        family: a key of `catalog.families.FAMILIES`, overriding detection.
        slim: do not load the image tokens of an original ChatGLM-6B; they are then never sampled.
        kernel: an entry of `catalog.quants.KERNELS`, for packed weights on a GPU.
        cache_gb: memory for the KV caches of several conversations, in GB; None means a share of
            what is free after loading.
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
    """A model that is ready to reply.

    Attributes:
        device: "cpu", "cuda:0", "cuda:0 + cuda:1", or a server's address.
        dtype: of activations; empty for a server.
        quant: format of quantised weights, such as "int4 g32"; empty if there are none.
        kernel: what multiplies with them on a GPU, such as "triton"; else empty.
        context_length: None if a server does not report it.
        weight_bytes: memory of the weights; None for a server.
        kv_bytes_per_token: memory of the KV cache; None for a server.
        saved_bytes: memory saved by not loading unused rows of the checkpoint.
        defaults: the model's own sampling parameters.
        backend: "native" is this engine, "compatibility" is transformers.
        compatibility_reason: the config field because of which transformers runs a model whose
            family this engine knows; else empty.
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
    compatibility_reason: str = ""
    calls_tools: bool = False
