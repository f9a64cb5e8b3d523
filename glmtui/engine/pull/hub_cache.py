"""Writes the disk cache of `huggingface_hub`, which other programs share.

``models--ORG--NAME/`` has ``blobs/DIGEST``, ``snapshots/COMMIT/FILE`` as links to them, and
``refs/main`` with the commit: https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
`huggingface_hub` itself would use the ETag header of a server as a file name without validation.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

FOLDER_MODE = 0o775  # reduced by the umask; a cache may be shared with a group but not with others


@dataclass(frozen=True, slots=True)
class HubCache:
    """The cache of one repository at one commit. All methods raise OSError.

    Attributes:
        root: the folder ``models--ORG--NAME``.
        revision: the commit; like all names passed to the methods, it must be validated.
    """

    root: Path
    revision: str

    @classmethod
    def for_repository(cls, cache: Path, repo: str, revision: str) -> HubCache:
        """The cache of ORG/NAME in the cache folder."""
        return cls(cache / f"models--{repo.replace('/', '--')}", revision)

    @property
    def snapshot(self) -> Path:
        """The folder with the files under their own names."""
        return self.root / "snapshots" / self.revision

    def blob(self, digest: str) -> Path:
        """The path of the content with this digest."""
        return self.root / "blobs" / digest

    def has(self, digest: str, size: int) -> bool:
        """Whether the content is complete, judged by its size."""
        blob = self.blob(digest)
        return blob.is_file() and blob.stat().st_size == size

    def make_folders(self) -> None:
        """Create the folders for blobs, refs and the snapshot."""
        for folder in (self.root / "blobs", self.root / "refs", self.snapshot):
            for part in (*reversed(folder.parents), folder):
                if not part.exists():
                    part.mkdir(mode=FOLDER_MODE, exist_ok=True)

    def link_file(self, name: str, digest: str) -> None:
        """Add a blob to the snapshot under its name, as a link, or as a copy without links."""
        link = self.snapshot / name
        target = os.path.relpath(self.blob(digest), self.snapshot)
        if link.is_symlink() and str(link.readlink()) == target:
            return
        temporary = self.snapshot / f".{name}.{os.getpid()}.tmp"
        with suppress(FileNotFoundError):
            temporary.unlink()
        try:
            temporary.symlink_to(target)
        except OSError:  # a file system without symbolic links
            shutil.copyfile(self.blob(digest), temporary)
        temporary.replace(link)

    def update_main_ref(self) -> None:
        """Make the commit the "main" of the repository.

        Nothing is written if it is already, because the cache may be read-only.
        """
        main = self.root / "refs" / "main"
        if main.is_file() and main.read_bytes()[:100] == self.revision.encode("ascii"):
            return
        temporary = self.root / "refs" / f".main.{os.getpid()}.tmp"
        temporary.write_text(self.revision, encoding="ascii")
        temporary.chmod(temporary.stat().st_mode & ~0o002)
        temporary.replace(main)
