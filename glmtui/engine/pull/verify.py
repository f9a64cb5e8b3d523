"""`verify`: compares the files of a pulled model with the sizes and checksums in its manifest."""

from __future__ import annotations

import threading
from pathlib import Path

from glmtui.engine.catalog.model_folder import MANIFEST, Manifest
from glmtui.engine.catalog.resolver import folder_name, models_dir, resolve
from glmtui.engine.model_info import ServerSpec
from glmtui.engine.progress import ProgressHook
from glmtui.engine.pull.staging import Job
from glmtui.errors import BadCheckpoint, UsageError
from glmtui.language import _


def verify(ref: str, on_progress: ProgressHook) -> str:
    """Check every file in the manifest of a model and return the result as a line of text.

    Raises:
        ModelNotFound: there is no model of that name.
        UsageError: the model was not pulled, so there is no manifest.
        BadCheckpoint: files are missing or have changed.
    """
    target = resolve(ref)
    if isinstance(target, ServerSpec):
        raise UsageError(_("{model} is a server and has no files here.").format(model=ref))
    registered = models_dir() / folder_name(target.name)
    manifest_folder = next((f for f in (registered, target.path) if (f / MANIFEST).is_file()), None)
    if manifest_folder is None:
        raise UsageError(
            _("{model} was not pulled, so its checksums are unknown.").format(model=ref),
            _("Record its files with: glmtui pull {model}").format(model=ref),
        )
    job = Job(target.name, on_progress, threading.Event())
    problems, hashed, files = [], 0, Manifest.read(manifest_folder).files
    for name, expected in files.items():
        path = target.path / name
        if Path(name).name != name:
            raise BadCheckpoint(
                _("{path} lists a file outside its folder: {name!r}.").format(
                    path=manifest_folder / MANIFEST, name=name
                )
            )
        if not path.is_file():
            problems.append(_("{name} is missing").format(name=name))
        elif path.stat().st_size != expected.get("size", path.stat().st_size):
            problems.append(
                _("{name} has {size:,} bytes, not {expected:,}").format(
                    name=name, size=path.stat().st_size, expected=expected["size"]
                )
            )
        elif "sha256" in expected:
            hashed += 1
            if job.sha256(path) != expected["sha256"]:
                problems.append(_("{name} has a wrong checksum").format(name=name))
    if problems:
        raise BadCheckpoint(
            _("{path} is damaged: {what}.").format(path=target.path, what="; ".join(problems)),
            _("Download it again with: glmtui pull {model}").format(model=target.name),
        )
    result = _("{model} is intact: {hashed} files checked by checksum, {sized} by size.").format(
        model=target.name, hashed=hashed, sized=len(files) - hashed
    )
    if target.code:
        result += " " + _("Its own code is never run: {names}.").format(
            names=", ".join(target.code)
        )
    return result
