"""The cache of huggingface_hub on disk, written by ourselves so that no server decides on a path.

``models--ORG--NAME/`` holds ``blobs/DIGEST``, ``snapshots/COMMIT/FILE`` as links to them, and
``refs/main`` with the commit: https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
`huggingface_hub` itself takes the name of a blob from the ETag header, unchecked. Digests, commits
and file names that come here were checked by `hub_api`. Everything raises OSError as the system
gives it. Knows no network.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

FOLDER_MODE = 0o775  # less what the umask takes; a cache may be shared with a group, no further


@dataclass(frozen=True, slots=True)
class HubCache:
    """The place of one repository at one commit.

    Attributes:
        root: ``models--ORG--NAME``.
    """

    root: Path
    revision: str

    @classmethod
    def of(cls, cache: Path, repo: str, revision: str) -> HubCache:
        """The place of ORG/NAME in the cache folder."""
        return cls(cache / f"models--{repo.replace('/', '--')}", revision)

    @property
    def snapshot(self) -> Path:
        """The folder with the files under their names."""
        return self.root / "snapshots" / self.revision

    def blob(self, digest: str) -> Path:
        """The file with the content of this digest, there or not."""
        return self.root / "blobs" / digest

    def has(self, digest: str, size: int) -> bool:
        """Whether the content is there whole, as far as its size tells."""
        blob = self.blob(digest)
        return blob.is_file() and blob.stat().st_size == size

    def make_folders(self) -> None:
        """For blobs, refs and the snapshot."""
        for folder in (self.root / "blobs", self.root / "refs", self.snapshot):
            for part in (*reversed(folder.parents), folder):
                if not part.exists():
                    part.mkdir(mode=FOLDER_MODE, exist_ok=True)

    def place(self, name: str, digest: str) -> None:
        """Gives the blob its name in the snapshot: a link, or a copy where there are no links."""
        where = self.snapshot / name
        target = os.path.relpath(self.blob(digest), self.snapshot)
        if where.is_symlink() and str(where.readlink()) == target:
            return
        fresh = self.snapshot / f".{name}.{os.getpid()}.tmp"
        with suppress(FileNotFoundError):
            fresh.unlink()
        try:
            fresh.symlink_to(target)
        except OSError:  # a file system, or a user of Windows, without links
            shutil.copyfile(self.blob(digest), fresh)
        fresh.replace(where)

    def set_main(self) -> None:
        """Makes the commit what other programs, and a later run, know as "main".

        Writes nothing where it is that already: the cache may be read-only.
        """
        main = self.root / "refs" / "main"
        if main.is_file() and main.read_bytes()[:100] == self.revision.encode("ascii"):
            return
        fresh = self.root / "refs" / f".main.{os.getpid()}.tmp"
        fresh.write_text(self.revision, encoding="ascii")
        fresh.chmod(fresh.stat().st_mode & ~0o002)
        fresh.replace(main)
