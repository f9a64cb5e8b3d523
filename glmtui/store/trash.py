"""Deleted conversations: a folder below that of the others, from which they come back for a while.

Knows where a conversation's two files lie (see `journal`); nothing of locks. All of it raises
OSError as the system gives it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from glmtui.store.file_listing import files_of
from glmtui.store.file_names import id_of
from glmtui.store.journal import beside
from glmtui.system.durable_files import make_private_folder, move_file

TRASH_DAYS = 30


class Trash:
    """The trash of a folder of conversations."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._trash = folder / "trash"

    def find(self, conversation_id: str) -> Path | None:
        """The file of a deleted conversation."""
        # A relative link leads nowhere from here, and comes back all the same.
        found = (path for path, _ in files_of(self._trash, links=True))
        return next((path for path in found if id_of(path) == conversation_id), None)

    def put(self, path: Path) -> None:
        """Takes a conversation's file in, with what is new beside it."""
        make_private_folder(self._trash)
        move_file(path, self._trash / path.name)
        self._move_new(path, self._trash)

    def give_back(self, path: Path) -> None:
        """Puts a file that was found here back into its folder."""
        # First, and last on the way here: a conversation that is in the folder has all that is new.
        self._move_new(path, self._folder)
        move_file(path, self._folder / path.name)

    def remove_old(self) -> None:
        """Removes for good what has been here for more than `TRASH_DAYS`."""
        for path, status in files_of(self._trash, links=True):
            # A file is changed, though not modified, when it is put there.
            if time.time() - status.st_ctime > TRASH_DAYS * 24 * 3600:
                beside(path, id_of(path)).unlink(missing_ok=True)
                path.unlink(missing_ok=True)

    def _move_new(self, path: Path, folder: Path) -> None:
        new = beside(path, id_of(path))
        if os.path.lexists(new):
            move_file(new, folder / new.name)
