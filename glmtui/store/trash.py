"""The trash: a subfolder for deleted conversations, from which they can be restored.

A conversation is moved together with its journal. All methods raise OSError.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from glmtui.store.file_listing import list_files
from glmtui.store.file_names import id_of
from glmtui.store.journal import journal_path
from glmtui.system.durable_files import make_private_folder, move_file

TRASH_DAYS = 30
"""Days after which a deleted conversation is removed for good."""


class Trash:
    """The trash of a conversations folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._trash = folder / "trash"

    def find(self, conversation_id: str) -> Path | None:
        """The file of a deleted conversation."""
        # A relative link is broken here, and can be restored all the same.
        found = (path for path, _ in list_files(self._trash, links=True))
        return next((path for path in found if id_of(path) == conversation_id), None)

    def put(self, path: Path) -> None:
        """Moves a conversation file and its journal to the trash."""
        make_private_folder(self._trash)
        move_file(path, self._trash / path.name)
        self._move_journal(path, self._trash)

    def restore(self, path: Path) -> None:
        """Moves a file from the trash back, with its journal.

        The journal is moved first here and last by `put`: so a conversation file in the folder
        always has its journal, even if the program is killed in between.
        """
        self._move_journal(path, self._folder)
        move_file(path, self._folder / path.name)

    def remove_old(self) -> None:
        """Deletes what has been in the trash for more than `TRASH_DAYS`."""
        for path, status in list_files(self._trash, links=True):
            # Moving a file sets its ctime, not its mtime.
            if time.time() - status.st_ctime > TRASH_DAYS * 24 * 3600:
                journal_path(path, id_of(path)).unlink(missing_ok=True)
                path.unlink(missing_ok=True)

    def _move_journal(self, path: Path, folder: Path) -> None:
        journal = journal_path(path, id_of(path))
        if os.path.lexists(journal):
            move_file(journal, folder / journal.name)
