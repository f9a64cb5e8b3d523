"""FAMILIES: the supported model families, and how to recognise them by config.json and folder.

ChatGLM-6B, ChatGLM2, ChatGLM3, CodeGeeX2 and GLM-4 all have ``model_type: "chatglm"``, and ChatGLM2
and ChatGLM3 have the same tensor names and sizes, so each row has a predicate instead of a key.

A new family is a row here, a schema in `family_fields.SCHEMAS`, and a module in `engine.models`
with the names of `ModelFamily` (`engine.models.model_family`, which lists the modules for mypy).
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

# Names of base models: not trained to chat.
BASE_MODEL = re.compile(r"(chatglm\d-6b-base|glm-?4-9b(-hf)?)$", re.IGNORECASE)
COMPATIBILITY = "compatibility"  # key of the family of models that transformers runs
MAX_HINT_BYTES = 1 << 20  # bytes read of a file that is only searched for a word


@dataclass(frozen=True, slots=True)
class Family:
    """A model family.

    Attributes:
        key: its name in `ModelInfo.family` and in the setting load.family.
        module: the module with its Config, Model, tokenizer and chat format.
        matches: whether a config.json, in this folder, belongs to the family.
    """

    key: str
    title: str
    module: str
    matches: Callable[[ConfigValues, Path], bool]


def _is_llama(config: ConfigValues, folder: Path) -> bool:
    """Llama as our decoder computes it; transformers runs other variants."""
    return config.get("model_type") == "llama" and not transformers_reason(config, folder)


def _is_chatglm(config: ConfigValues, folder: Path) -> bool:
    return config.get("model_type") == "chatglm" and "inner_hidden_size" in config


def _is_glm4(config: ConfigValues, folder: Path) -> bool:
    """GLM-4 in the original layout, or in Hugging Face's layout with model_type "glm".

    In the original layout only GLM-4 has several stop tokens. GLM-Edge is a "glm" too, with other
    rotary positions, tied embeddings and its own tokenizer: transformers runs it.
    """
    if config.get("model_type") == "glm":
        return not transformers_reason(config, folder)
    original = config.get("model_type") == "chatglm" and "padded_vocab_size" in config
    several_stop_tokens = isinstance(config.get("eos_token_id"), list)
    return original and (several_stop_tokens or config["padded_vocab_size"] == 151552)


def _is_chatglm3(config: ConfigValues, folder: Path) -> bool:
    """ChatGLM3 and ChatGLM2 differ in name, tokenizer files and context length, not in weights."""
    if config.get("model_type") != "chatglm" or "padded_vocab_size" not in config:
        return False
    for name in _checkpoint_names(config, folder):
        versions = re.findall(r"chatglm([23])|codegeex(2)", name.lower())
        if versions:
            return "3" in versions[-1]
    for name in ("tokenizer_config.json", "tokenization_chatglm.py"):
        if b"<|assistant|>" in _read_beginning(folder / name):
            return True
    # No other sign is left: ChatGLM2 was released with a context of 32,768 and ChatGLM3 with 8,192.
    return config.get("seq_length") == 8192


def _is_chatglm2(config: ConfigValues, folder: Path) -> bool:
    return config.get("model_type") == "chatglm" and "padded_vocab_size" in config


# Family by model_type, for the model types that both our decoders and transformers can run.
SHARED_TYPES = {"llama": "llama", "glm": "glm4"}


def transformers_reason(config: ConfigValues, folder: Path) -> str:
    """Why transformers runs a model of a native family; "" if our decoder runs it."""
    model_type = config.get("model_type")
    family = SHARED_TYPES.get(model_type) if isinstance(model_type, str) else None
    if family is None or not _runs_in_transformers(config, folder):
        return ""
    unsupported = unsupported_fields(config, family)
    if unsupported:
        return ", ".join(f"{name}: {format_value(value)}" for name, value in unsupported.items())
    if model_type == "glm" and _has_other_tokenizer(folder):
        return _("its own tokenizer")
    return ""


def _has_other_tokenizer(folder: Path) -> bool:
    """Whether there is a tokenizer.json that lacks the special tokens of GLM-4's prompts."""
    beginning = _read_beginning(folder / "tokenizer.json")
    return bool(beginning) and not (b'"[gMASK]"' in beginning and b'"<sop>"' in beginning)


def _runs_in_transformers(config: ConfigValues, folder: Path) -> bool:
    class_name = transformers_classes().get(str(config.get("model_type")))
    architectures = config.get("architectures")
    if class_name is None:
        return False
    if isinstance(architectures, list) and class_name in architectures:
        return True
    # A config without `architectures` is recognised by its model_type, in the native families only.
    return not architectures and config.get("model_type") in SHARED_TYPES


def transformers_classes() -> dict[str, str]:
    """The class of each causal language model in the installed transformers, by model_type.

    Parsed from its source: importing the table takes seconds and loads torch.
    """
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return {}
    source = Path(spec.origin).with_name("models") / "auto" / "modeling_auto.py"
    _, _, rest = source.read_text("utf-8").partition("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = ")
    table, _, _ = rest.partition("\n)")
    return dict(re.findall(r'\(\s*"([^"]+)",\s*"([^"]+)"', table))


def _checkpoint_names(config: ConfigValues, folder: Path) -> tuple[str, str]:
    """The checkpoint's name in its config and the name of its folder.

    The hub's cache stores ORG/NAME in ``models--ORG--NAME/snapshots/COMMIT``.
    """
    in_cache = folder.parent.name == "snapshots"
    folder_name = folder.parent.parent.name if in_cache else folder.name
    return str(config.get("_name_or_path") or ""), folder_name


def _read_beginning(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_HINT_BYTES)
    except OSError:  # optional information
        return b""


# In order of precedence: the first that matches is used.
FAMILIES: tuple[Family, ...] = (
    Family("llama", "Llama", "glmtui.engine.models.llama", _is_llama),
    Family("chatglm", "ChatGLM-6B and Slim", "glmtui.engine.models.chatglm", _is_chatglm),
    Family("glm4", "GLM-4-9B", "glmtui.engine.models.glm4", _is_glm4),
    Family("chatglm3", "ChatGLM3-6B", "glmtui.engine.models.chatglm3", _is_chatglm3),
    Family("chatglm2", "ChatGLM2-6B", "glmtui.engine.models.chatglm2", _is_chatglm2),
    Family(
        COMPATIBILITY,
        "chat models of transformers",
        "glmtui.engine.compatibility.transformers_model",
        _runs_in_transformers,
    ),
)


def detect_family(config: ConfigValues, folder: Path) -> Family:
    """The family of a checkpoint.

    Raises:
        UnsupportedModel: the family is not supported, or it is a base model.
    """
    for name in _checkpoint_names(config, folder):
        if BASE_MODEL.search(name.rstrip("/")):
            raise UnsupportedModel(
                _("{folder} is a base model ({name}): it completes text and cannot chat.").format(
                    folder=folder, name=Path(name).name
                ),
                _(
                    "Use a chat model of the same family, such as THUDM/chatglm3-6b. If this model "
                    "was fine-tuned for chat, name its family: -s load.family=FAMILY"
                ),
            )
    for family in FAMILIES:
        if family.matches(config, folder):
            return family
    model_type = config.get("model_type")
    reason = _("config.json has no model_type")
    if model_type:
        reason = _("model_type is {model_type!r}").format(model_type=model_type)
    titles = ", ".join(family.title for family in FAMILIES)
    raise UnsupportedModel(
        _("glmtui does not support the model in {folder}: {reason}.").format(
            folder=folder, reason=reason
        ),
        _(
            "Supported: {titles}. For other models use a server such as vLLM: glmtui -m "
            "http://HOST:PORT/v1"
        ).format(titles=titles),
    )


def family_by_key(key: str) -> Family:
    """The family with this key. Raises UnsupportedModel."""
    for family in FAMILIES:
        if family.key == key:
            return family
    raise UnsupportedModel(
        _("There is no model family {key!r}.").format(key=key),
        _("Families: {names}.").format(names=", ".join(family.key for family in FAMILIES)),
    )
