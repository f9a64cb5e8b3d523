"""ModelFamily: what a family's module offers to the loader, and how to import one."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from glmtui.chat import SamplingParams
from glmtui.engine.catalog.families import COMPATIBILITY, FAMILIES
from glmtui.engine.checkpoint.checkpoint import WeightSource
from glmtui.engine.nn.decoder import Decoder
from glmtui.engine.tokenization.protocols import ChatFormat, Tokenizer
from glmtui.errors import UnsupportedModel, UsageError
from glmtui.language import _


class ModelFamily(Protocol):
    """A module in `glmtui.engine.models` that supports one model family.

    `config` is what the family's own `load_config` returns. Others read only `context_length`
    (tokens) and `vocab` (number of ids), which every config has.
    """

    @property
    def Model(self) -> Callable[[Any], Decoder]:  # noqa: N802
        """Builds the decoder from a config, on torch's current default device."""

    def load_config(self, raw: Mapping[str, Any], /) -> Any:
        """The family's config from the contents of config.json.

        Raises:
            BadCheckpoint: a field is missing or invalid.
            UnsupportedModel: the config asks for a variation that is not implemented.
        """

    def weight_sources(self, config: Any, /) -> dict[str, WeightSource]:
        """The checkpoint tensors of each parameter, by the parameter's name in `Model`."""

    def load_tokenizer(self, folder: Path, raw: Mapping[str, Any], /) -> Tokenizer | None:
        """The folder's tokenizer; None if the folder has no tokenizer files."""

    def chat_format(
        self, tokenizer: Tokenizer, folder: Path, raw: Mapping[str, Any], /
    ) -> ChatFormat:
        """How conversations become prompts."""

    def stop_ids(self, raw: Mapping[str, Any], /) -> frozenset[int]:
        """The ids that end a reply, for a folder without a tokenizer."""

    def sampling_defaults(self, folder: Path, raw: Mapping[str, Any], /) -> SamplingParams:
        """The sampling parameters that the model's authors recommend."""


if TYPE_CHECKING:  # so that mypy compares every family with the protocol
    from glmtui.engine.models import chatglm, chatglm2, chatglm3, glm4, llama

    _FAMILIES: tuple[ModelFamily, ...] = (chatglm, chatglm2, chatglm3, glm4, llama)


def import_family(key: str) -> ModelFamily:
    """The module of a family that this engine runs itself.

    Raises:
        UsageError: `key` is not in `FAMILIES`.
        UnsupportedModel: `key` is the family of models that transformers runs.
    """
    if key == COMPATIBILITY:
        raise UnsupportedModel(_("Not possible with a model that runs in transformers."))
    for family in FAMILIES:
        if family.key == key:
            module: ModelFamily = importlib.import_module(family.module)
            return module
    raise UsageError(
        _("Unknown model family: {key!r}.").format(key=key),
        _("Known families: {known}.").format(known=", ".join(family.key for family in FAMILIES)),
    )
