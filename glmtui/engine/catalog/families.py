"""FAMILIES: which kinds of model there are, and how to tell them apart by config.json and folder.

ChatGLM-6B, ChatGLM2, ChatGLM3, CodeGeeX2 and GLM-4 all say ``model_type: "chatglm"``, and ChatGLM2
and 3 share every tensor name and size, so a row has a predicate and not a key to look up. Knows no
weights and imports no model.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from glmtui.engine.catalog.config_rules import format_value
from glmtui.engine.catalog.family_fields import unsupported_fields
from glmtui.errors import UnsupportedModel
from glmtui.language import _

ConfigValues: TypeAlias = Mapping[str, Any]

BASE_MODEL = re.compile(r"(chatglm\d-6b-base|glm-?4-9b(-hf)?)$", re.IGNORECASE)
COMPATIBILITY = "compatibility"  # the family of what only transformers knows
MAX_HINT_BYTES = 1 << 20  # read of a file that is only searched for a word


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of model.

    Attributes:
        key: as `ModelInfo.family` and the family setting spell it.
        module: where its ConfigValues, Model, Tokenizer and ChatFormat are.
        matches: whether a config.json, in this folder, is of this family.
    """

    key: str
    title: str
    module: str
    matches: Callable[[ConfigValues, Path], bool]


def _is_llama(config: ConfigValues, folder: Path) -> bool:
    """Llama as our decoder has it; its variations are left to transformers, where it has them."""
    return config.get("model_type") == "llama" and not transformers_reason(config, folder)


def _is_chatglm(config: ConfigValues, folder: Path) -> bool:
    return config.get("model_type") == "chatglm" and "inner_hidden_size" in config


def _is_glm4(config: ConfigValues, folder: Path) -> bool:
    """Of the original layout, GLM-4 alone has several end tokens; Hugging Face calls it "glm".

    GLM-Edge is a "glm" too, with other positions, tied embeddings and a tokenizer of its own; what
    our decoder does not compute is left to transformers.
    """
    if config.get("model_type") == "glm":
        return not transformers_reason(config, folder)
    original = config.get("model_type") == "chatglm" and "padded_vocab_size" in config
    several_ends = isinstance(config.get("eos_token_id"), list)
    return original and (several_ends or config["padded_vocab_size"] == 151552)


def _is_chatglm3(config: ConfigValues, folder: Path) -> bool:
    """Nothing in the weights tells ChatGLM3 from 2: ask names, then files, then the context."""
    if config.get("model_type") != "chatglm" or "padded_vocab_size" not in config:
        return False
    for name in _names(config, folder):
        named = re.findall(r"chatglm([23])|codegeex(2)", name.lower())
        if named:
            return "3" in named[-1]
    for name in ("tokenizer_config.json", "tokenization_chatglm.py"):
        if b"<|assistant|>" in _beginning(folder / name):
            return True
    # with no hint left: ChatGLM2 was released with 32,768 and ChatGLM3 with 8,192
    return config.get("seq_length") == 8192


def _is_chatglm2(config: ConfigValues, folder: Path) -> bool:
    return config.get("model_type") == "chatglm" and "padded_vocab_size" in config


NATIVE_TYPES = {"llama": "llama", "glm": "glm4"}  # family by model_type, known to transformers too


def transformers_reason(config: ConfigValues, folder: Path) -> str:
    """Why a model of a family of ours is run by transformers; "" where it is not.

    A file without ``architectures`` is run as its model_type says.
    """
    kind = config.get("model_type")
    family = NATIVE_TYPES.get(kind) if isinstance(kind, str) else None
    if family is None or not _runs_in_transformers(config, folder):
        return ""
    others = unsupported_fields(config, family)
    if others:
        return ", ".join(f"{name}: {format_value(value)}" for name, value in others.items())
    return _("a tokenizer of its own") if kind == "glm" and _lacks_glm4_marks(folder) else ""


def _lacks_glm4_marks(folder: Path) -> bool:
    """Whether there is a tokenizer, and not one of GLM-4's, whose prompts begin with marks."""
    beginning = _beginning(folder / "tokenizer.json")
    return bool(beginning) and not (b'"[gMASK]"' in beginning and b'"<sop>"' in beginning)


def _runs_in_transformers(config: ConfigValues, folder: Path) -> bool:
    known = transformers_classes().get(str(config.get("model_type")))
    named = config.get("architectures")
    if known is None:
        return False
    if isinstance(named, list) and known in named:
        return True
    # a variation of a family of ours, which is told by model_type alone
    return not named and config.get("model_type") in NATIVE_TYPES


def transformers_classes() -> dict[str, str]:
    """Class by model_type of every chat model that the installed transformers has built in.

    Read from its source: importing the table takes seconds and torch.
    """
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return {}
    source = Path(spec.origin).with_name("models") / "auto" / "modeling_auto.py"
    _, _, rest = source.read_text("utf-8").partition("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = ")
    table, _, _ = rest.partition("\n)")
    return dict(re.findall(r'\(\s*"([^"]+)",\s*"([^"]+)"', table))


def _names(config: ConfigValues, folder: Path) -> tuple[str, str]:
    """What the checkpoint calls itself, and what its folder is called.

    The hub's cache keeps ORG/NAME in ``models--ORG--NAME/snapshots/COMMIT``.
    """
    in_cache = folder.parent.name == "snapshots"
    named = folder.parent.parent.name if in_cache else folder.name
    return str(config.get("_name_or_path") or ""), named


def _beginning(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_HINT_BYTES)
    except OSError:  # it is only a hint
        return b""


# The first that matches is taken.
FAMILIES: tuple[Family, ...] = (
    Family("llama", "Llama-shaped", "glmtui.engine.models.llama", _is_llama),
    Family("chatglm", "ChatGLM-6B and Slim", "glmtui.engine.models.chatglm", _is_chatglm),
    Family("glm4", "GLM-4-9B", "glmtui.engine.models.glm4", _is_glm4),
    Family("chatglm3", "ChatGLM3-6B", "glmtui.engine.models.chatglm3", _is_chatglm3),
    Family("chatglm2", "ChatGLM2-6B", "glmtui.engine.models.chatglm2", _is_chatglm2),
    Family(
        COMPATIBILITY,
        "what transformers has built in",
        "glmtui.engine.compatibility.transformers_model",
        _runs_in_transformers,
    ),
)


def detect_family(config: ConfigValues, folder: Path) -> Family:
    """The family of a checkpoint.

    Raises:
        UnsupportedModel: no family of ours, or a base model, which cannot chat.
    """
    for name in _names(config, folder):
        if BASE_MODEL.search(name.rstrip("/")):
            raise UnsupportedModel(
                _("{folder} is a base model ({name}): it continues text and cannot chat.").format(
                    folder=folder, name=Path(name).name
                ),
                _(
                    "Take the chat model of its family, such as THUDM/chatglm3-6b. If this one has "
                    "been trained to chat since, say which family it is of when loading it."
                ),
            )
    for family in FAMILIES:
        if family.matches(config, folder):
            return family
    kind = config.get("model_type")
    said = _("config.json has no model_type")
    if kind:
        said = _("its config.json says model_type {kind!r}").format(kind=kind)
    titles = ", ".join(family.title for family in FAMILIES)
    raise UnsupportedModel(
        _("{folder} is of no family that glmtui runs: {said}.").format(folder=folder, said=said),
        _(
            "These run here: {titles}. A server such as vLLM can run others: glmtui -m http://…/v1"
        ).format(titles=titles),
    )
