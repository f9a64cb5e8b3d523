"""From a model's name to the model: which models are installed, and what a name refers to.

Looks up names in the settings' servers, the registry, the folder of pulled models and the file
system. Loads no weights.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from glmtui.engine.catalog.model_folder import MANIFEST, inspect_folder
from glmtui.engine.catalog.registry import (
    MODELS,
    KnownModel,
    known_model,
)
from glmtui.engine.model_info import ModelInfo, ServerSpec, Target
from glmtui.errors import GlmtuiError, ModelNotFound, UsageError
from glmtui.language import _
from glmtui.net.addresses import is_server_url, redact_if_url
from glmtui.system import paths

logger = logging.getLogger(__name__)


def models_dir() -> Path:
    """Where pulled models, or notes about them, are kept: a folder each."""
    return paths.cache_dir() / "models"


def folder_name(name: str) -> str:
    """The folder of a model in `models_dir`: "THUDM/chatglm3-6b" is in "THUDM--chatglm3-6b"."""
    return name.replace("/", "--")


def installed_models() -> list[ModelInfo]:
    """The models on this machine, by name. One that is damaged is left out and logged."""
    found = []
    for note in sorted(models_dir().glob(f"*/{MANIFEST}")):
        try:
            found.append(inspect_installed(note.parent))
        except (GlmtuiError, OSError) as error:
            logger.warning("%s is left out: %s", note.parent, error)
    return found


def resolve(
    ref: str, servers: Mapping[str, ServerSpec] | None = None, family: str | None = None
) -> Target:
    """The model or server that a name stands for.

    Args:
        ref: a known name, the name of an installed model, a folder, an http(s) address, or a key
            of `servers`.
        family: a key of `FAMILIES` to take instead of what the model looks like.

    Raises:
        ModelNotFound: nothing of that name is here; the hint says how to get it.
        BadCheckpoint, UnsupportedModel: it is here and cannot be used.
    """
    servers = servers or {}
    if is_server_url(ref):
        return ServerSpec(ref.rstrip("/"))
    if ref in servers:
        return servers[ref]
    known = known_model(ref)
    try:
        info = _on_disk(ref, known, family)
    except OSError as error:  # a name too long for a path, a folder that may not be entered
        raise ModelNotFound(
            _("{name!r} cannot be looked up: {reason}.").format(
                name=redact_if_url(ref)[:80], reason=error.strerror
            )
        ) from error
    if info is not None:
        return info
    if known is not None:
        raise ModelNotFound(
            _("{model} is not on this machine.").format(model=known.title),
            _("Fetch it ({size:.1f} GB) with: glmtui pull {model}").format(
                size=known.disk_nbytes / 1e9, model=known.name
            ),
        )
    raise _unknown(ref, servers)


def _on_disk(ref: str, known: KnownModel | None, family: str | None) -> ModelInfo | None:
    for name in (ref, known.name if known else ref):
        folder = models_dir() / folder_name(name)
        if _is_plain(name) and (folder / MANIFEST).is_file():
            return inspect_installed(folder, family)
    path = expand_home(ref)
    if path.is_dir():
        return inspect_folder(path.resolve(), family=family)
    if path.suffix == ".gguf" and path.is_file():
        raise UsageError(
            _("{model} is not prepared yet.").format(model=ref),
            _("Take it in with: glmtui pull {model}").format(model=ref),
        )
    return None


def expand_home(ref: str) -> Path:
    """A path as typed; of the home folders only one's own is looked up."""
    return Path(ref).expanduser() if ref.startswith("~/") else Path(ref)


def inspect_installed(folder: Path, family: str | None = None) -> ModelInfo:
    """The model whose manifest is in `folder`. Raises BadCheckpoint, UnsupportedModel."""
    info = inspect_folder(folder, family=family)
    known = known_model(info.name)
    return info if known is None else replace(info, parameters=known.parameters)


def _is_plain(name: str) -> bool:
    """Whether a name can be a folder in `models_dir`, rather than lead out of it."""
    return name not in ("", ".", "..") and Path(folder_name(name)).name == folder_name(name)


def _unknown(ref: str, servers: Mapping[str, ServerSpec]) -> ModelNotFound:
    names = [model.name for model in MODELS] + [model.name for model in installed_models()]
    near = difflib.get_close_matches(ref, [*dict.fromkeys(names), *servers], cutoff=0.5)
    hint = _("See what there is with: glmtui models")
    if near:
        hint = _("Near it: {names}.").format(names=", ".join(near))
    if ref.count("/") == 1 and not ref.startswith((".", "~", "/")):
        hint = (
            _("If it is on the hub, fetch it with: glmtui pull {model}.").format(model=ref)
            + " "
            + hint
        )
    said = _("There is no model {model!r} here, and no folder of that name.")
    return ModelNotFound(said.format(model=redact_if_url(ref)), hint)
