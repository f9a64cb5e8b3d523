"""From a model's name to the model: which models are installed, and what a name refers to.

Looks up names in the settings' servers, the known models, the folder of pulled models and the file
system. Loads no weights.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from glmtui.engine.catalog.known_models import MODELS, KnownModel, known_model
from glmtui.engine.catalog.model_folder import MANIFEST, inspect_folder
from glmtui.engine.model_info import ModelInfo, ServerSpec, Target
from glmtui.errors import GlmtuiError, ModelNotFound, UsageError
from glmtui.language import _
from glmtui.net.addresses import is_server_url, redact_if_url
from glmtui.system import paths

logger = logging.getLogger(__name__)


def models_dir() -> Path:
    """The folder of pulled models: one subfolder each, with the model or a manifest."""
    return paths.cache_dir() / "models"


def folder_name(name: str) -> str:
    """The subfolder of a model in `models_dir`, such as "THUDM--chatglm3-6b"."""
    return name.replace("/", "--")


def installed_models() -> list[ModelInfo]:
    """The pulled models, sorted by folder. Damaged ones are skipped with a warning in the log."""
    models = []
    for manifest in sorted(models_dir().glob(f"*/{MANIFEST}")):
        try:
            models.append(inspect_installed(manifest.parent))
        except (GlmtuiError, OSError) as error:
            logger.warning("Skipped %s: %s", manifest.parent, error)
    return models


def resolve(
    ref: str, servers: Mapping[str, ServerSpec] | None = None, family: str | None = None
) -> Target:
    """The model or server that a name refers to.

    Args:
        ref: a known name, the name of an installed model, a folder, an http(s) address, or a key
            of `servers`.
        family: a key of `FAMILIES`; by default the family is detected.

    Raises:
        ModelNotFound: there is no such model on this machine; the hint says how to get it.
        BadCheckpoint, UnsupportedModel: the model is there, but cannot be used.
    """
    servers = servers or {}
    if is_server_url(ref):
        return ServerSpec(ref.rstrip("/"))
    if ref in servers:
        return servers[ref]
    known = known_model(ref)
    try:
        info = _model_on_disk(ref, known, family)
    except OSError as error:  # the name is too long for a path, or a folder is not accessible
        raise ModelNotFound(
            _("Could not look up {name!r}: {reason}.").format(
                name=redact_if_url(ref)[:80], reason=error.strerror
            )
        ) from error
    if info is not None:
        return info
    if known is not None:
        raise ModelNotFound(
            _("{model} is not on this machine.").format(model=known.title),
            _("Download it ({size:.1f} GB) with: glmtui pull {model}").format(
                size=known.disk_nbytes / 1e9, model=known.name
            ),
        )
    raise _unknown_model(ref, servers)


def _model_on_disk(ref: str, known: KnownModel | None, family: str | None) -> ModelInfo | None:
    for name in (ref, known.name if known else ref):
        folder = models_dir() / folder_name(name)
        if _is_plain_name(name) and (folder / MANIFEST).is_file():
            return inspect_installed(folder, family)
    path = expand_home(ref)
    if path.is_dir():
        return inspect_folder(path.resolve(), family=family)
    if path.suffix == ".gguf" and path.is_file():
        raise UsageError(
            _("{model} must be prepared before it can be used.").format(model=ref),
            _("Prepare it with: glmtui pull {model}").format(model=ref),
        )
    return None


def expand_home(ref: str) -> Path:
    """A path as the user typed it, with "~/" expanded. "~user" is not looked up."""
    return Path(ref).expanduser() if ref.startswith("~/") else Path(ref)


def inspect_installed(folder: Path, family: str | None = None) -> ModelInfo:
    """The model whose manifest is in `folder`. Raises BadCheckpoint, UnsupportedModel."""
    info = inspect_folder(folder, family=family)
    known = known_model(info.name)
    return info if known is None else replace(info, parameters=known.parameters)


def _is_plain_name(name: str) -> bool:
    """Whether the folder of this name is directly in `models_dir`, not outside of it."""
    return name not in ("", ".", "..") and Path(folder_name(name)).name == folder_name(name)


def _unknown_model(ref: str, servers: Mapping[str, ServerSpec]) -> ModelNotFound:
    names = [model.name for model in MODELS] + [model.name for model in installed_models()]
    similar = difflib.get_close_matches(ref, [*dict.fromkeys(names), *servers], cutoff=0.5)
    hint = _("List the models with: glmtui models")
    if similar:
        hint = _("Similar names: {names}.").format(names=", ".join(similar))
    if ref.count("/") == 1 and not ref.startswith((".", "~", "/")):
        download = _("To download it from the hub: glmtui pull {model}.").format(model=ref)
        hint = f"{download} {hint}"
    message = _("There is no model {model!r} on this machine, and no folder with this name.")
    return ModelNotFound(message.format(model=redact_if_url(ref)), hint)
