"""Whether the files of a pulled model are still those that were pulled, by size and checksum.

Reads files and the manifest that was written about them; mends nothing and imports no torch.
"""

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
    """Reads every file that the manifest of a model names. Returns what was found, in a line.

    Raises:
        ModelNotFound: nothing of that name is here.
        UsageError: it was not pulled, so nobody noted what its files should be.
        BadCheckpoint: files are missing or others than they were.
    """
    target = resolve(ref)
    if isinstance(target, ServerSpec):
        raise UsageError(_("{model} is a server; its files are not here.").format(model=ref))
    beside = models_dir() / folder_name(target.name)
    note = next((f for f in (beside, target.path) if (f / MANIFEST).is_file()), None)
    if note is None:
        raise UsageError(
            _("{model} was not pulled, so there are no checksums of it.").format(model=ref),
            _("Note its files with: glmtui pull {model}").format(model=ref),
        )
    job = Job(target.name, on_progress, threading.Event())
    wrong, hashed, files = [], 0, Manifest.read(note).files
    for name, noted in files.items():
        path = target.path / name
        if Path(name).name != name:
            raise BadCheckpoint(
                _("{path} names a file outside its folder: {name!r}.").format(
                    path=note / MANIFEST, name=name
                )
            )
        if not path.is_file():
            wrong.append(_("{name} is missing").format(name=name))
        elif path.stat().st_size != noted.get("size", path.stat().st_size):
            wrong.append(
                _("{name} has {size:,} bytes instead of {expected:,}").format(
                    name=name, size=path.stat().st_size, expected=noted["size"]
                )
            )
        elif "sha256" in noted:
            hashed += 1
            if job.sha256(path) != noted["sha256"]:
                wrong.append(_("{name} has another checksum").format(name=name))
    if wrong:
        raise BadCheckpoint(
            _("{path} is damaged: {what}.").format(path=target.path, what="; ".join(wrong)),
            _("Fetch it again with: glmtui pull {model}").format(model=target.name),
        )
    rest = len(files) - hashed
    sizes = f", {rest} by size alone" if rest else ""
    never = f" Its own code is never run: {', '.join(target.code)}." if target.code else ""
    return f"{target.name} is sound: {hashed} files by checksum{sizes}.{never}"
