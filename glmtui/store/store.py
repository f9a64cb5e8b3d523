"""The Store: conversations in a folder, one file each, ``<date>-<slug>-<id>.toml`` or ``.json``.

The format of a file is in `glmtui.store.conversation_format`. A file is replaced atomically, and
only if it is still as this program last read or wrote it. New messages of a large conversation go
to its `journal` until it is closed. The id of a conversation is the end of its file name, so a
copied or renamed file is a separate conversation.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from glmtui.chat import Conversation
from glmtui.errors import (
    ConversationChanged,
    ConversationInUse,
    ConversationNotFound,
    CorruptConversation,
    StoreError,
)
from glmtui.language import _
from glmtui.store import journal
from glmtui.store.conversation_file import (
    MAX_BYTES,
    Summary,
    decode_utf8,
    make_summary,
    peek_file,
    reading_errors,
    writing_errors,
)
from glmtui.store.conversation_format import FileFormat, dumps, loads
from glmtui.store.file_listing import list_files
from glmtui.store.file_names import file_name, format_of, id_of, name_for_corrupt
from glmtui.store.index import Index
from glmtui.store.journal import SavedState, digest_of, journal_path, stamp_of
from glmtui.store.leftovers import remove_leftovers
from glmtui.store.locks import FolderLocks
from glmtui.store.trash import Trash
from glmtui.system.durable_files import make_private_folder, read_bounded, remove_file, replace_file

WAIT_SECONDS = 5.0
"""How long a load waits for a save to finish; saving 50 MB takes less."""
MOST_READS = 3
"""Attempts to read a file and its journal while another program is writing them."""


class Store:
    """The conversations of one folder. Thread-safe: saves and loads exclude each other.

    Creating a Store removes temporary files and locks of programs that were killed. The folder is
    created by the first save.

    Args:
        file_format: of new files; an existing file keeps its format.

    Attributes:
        problems: files that the last `summaries` could not list, and why.
    """

    def __init__(self, folder: Path, file_format: FileFormat = "toml") -> None:
        self.folder = folder
        self.file_format: FileFormat = file_format
        self.problems: tuple[StoreError, ...] = ()
        self._trash = Trash(folder)
        self._known: dict[str, SavedState] = {}
        self._tried: dict[str, SavedState] = {}  # states of writes that may have failed
        self._locks = FolderLocks(folder)
        self._turn = threading.RLock()
        with contextlib.suppress(OSError):  # reported when the folder is used
            remove_leftovers(self.folder, self._locks)
            self._trash.remove_old()

    @property
    def unlocked(self) -> str:
        """Why files cannot be locked in this folder (some network file systems); empty if they can.

        Known after the first `hold` or `save`. Without locks another program's changes are still
        detected, unless both save at the same instant.
        """
        return self._locks.unsupported

    # ---- one conversation

    def save(self, conversation: Conversation) -> Path:
        """Writes the conversation and syncs it to disk.

        If this fails, the file is unchanged; `Conversation.fork` can be saved instead.

        Raises:
            ConversationInUse: another program holds it.
            ConversationChanged: the file was changed since this program read or wrote it.
            StoreError: the file cannot be written.
        """
        with self._turn:
            self.hold(conversation.id)
            with writing_errors(self.folder):
                return self._write(conversation)

    def load(self, id_or_prefix: str) -> Conversation:
        """Loads a conversation by its id, the beginning of its id, or "last" for the newest.

        Raises:
            ConversationNotFound: no conversation matches, or more than one.
            CorruptConversation: the file cannot be parsed; it was renamed to ``NAME.bad``.
            NewerFormat: a newer glmtui wrote the file.
            StoreError: the file cannot be read.
        """
        with self._in_turn():
            path = self._find(id_or_prefix)
            for _attempt in range(MOST_READS):
                known = self._read(path)
                # Another program may have written the file or the journal between our two reads.
                with reading_errors(path):
                    if known.stamp == stamp_of(path):
                        break
            self._known[known.conversation.id] = known
            self._tried.pop(known.conversation.id, None)
            return known.conversation

    def _read(self, path: Path) -> SavedState:
        try:
            with reading_errors(path):
                stamp, data = stamp_of(path), read_bounded(path, MAX_BYTES)
                conversation = replace(loads(decode_utf8(data), format_of(path)), id=id_of(path))
        except CorruptConversation as error:
            raise self._set_aside(path, error) from error
        more = journal_path(path, conversation.id)
        try:
            with reading_errors(more):
                return journal.read(path, data, stamp, conversation)
        except CorruptConversation as error:
            raise self._set_aside(more, error) from error

    def amend(
        self, id_or_prefix: str, *, title: str | None = None, pinned: bool | None = None
    ) -> None:
        """Changes the title or the pin; None leaves a value as it is.

        The conversation keeps its place in the list. Raises like `load` and `save`.
        """
        with self._in_turn():
            conversation = self.load(id_or_prefix)
            held = conversation.id in self._locks.held()
            if title is not None:
                conversation = replace(conversation, title=title)
            if pinned is not None:
                conversation = replace(conversation, pinned=pinned)
            try:
                with writing_errors(self.folder):
                    before = self._known[conversation.id].path.stat()
                    path = self.save(conversation)
                    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            finally:
                if not held:
                    self.release(conversation.id)

    def delete(self, id_or_prefix: str) -> None:
        """Moves a conversation to the trash, where `restore` finds it for `trash.TRASH_DAYS`.

        Raises like `load` and `save`.
        """
        with self._in_turn():
            path = self._find(id_or_prefix)
            self.hold(id_of(path))
            try:
                with writing_errors(self.folder):
                    self._trash.put(path)
                self._known.pop(id_of(path), None)
            finally:
                self.release(id_of(path))

    def restore(self, conversation_id: str) -> None:
        """Moves a deleted conversation back from the trash.

        Raises:
            ConversationNotFound: it is not in the trash.
            StoreError: there is a conversation with this id, or the file cannot be moved.
        """
        with self._in_turn():
            there = self._trash.find(conversation_id)
            if there is None:
                raise ConversationNotFound(
                    _("{name!r} is no longer in the trash").format(name=conversation_id)
                )
            if any(id_of(path) == conversation_id for path, _ in self._files(conversation_id)):
                raise StoreError(
                    _("conversation {name} already exists and is not overwritten").format(
                        name=conversation_id
                    ),
                    _("The deleted one is in {path}.").format(path=there),
                )
            self.hold(conversation_id)
            try:
                with writing_errors(self.folder):
                    self._trash.restore(there)
            finally:
                self.release(conversation_id)

    # ---- all of them

    def summaries(self) -> list[Summary]:
        """All conversations, newest first; sets `problems`. Corrupt files become ``NAME.bad``."""
        return list(self.each_summary())

    def each_summary(self) -> Iterator[Summary]:
        """Yields `summaries` one by one; sets `problems` after the last."""
        problems: list[StoreError] = []
        index = Index(self.folder)
        for path, status in self._by_age():
            there = index.get(path.name, status)
            try:
                if there is None:
                    there = peek_file(path)
                    index.put(path.name, status, there)
                yield make_summary(path, status, there)
            except CorruptConversation as error:
                problems.append(self._set_aside(path, error))
            except StoreError as error:
                problems.append(error)
        index.save()
        self.problems = tuple(problems)

    def paths(self) -> list[Path]:
        """The files of all conversations, newest first. Raises StoreError."""
        return [path for path, _ in self._by_age()]

    def latest(self) -> Summary | None:
        """The newest conversation that can be read."""
        for path, status in self._by_age():
            with contextlib.suppress(StoreError):
                return make_summary(path, status, peek_file(path))
        return None

    # ---- who may write

    def hold(self, conversation_id: str) -> None:
        """Locks a conversation against saves by other programs, until `release` or `close`.

        Raises:
            ConversationInUse: another program holds it.
            StoreError: the folder cannot be written.
        """
        with self._turn, writing_errors(self.folder):
            make_private_folder(self.folder)
            held = self._locks.acquire(conversation_id)
        if not held:
            holder = self._locks.holder(conversation_id) or "unknown"
            raise ConversationInUse(
                _("conversation {name} is open in another glmtui (process {holder})").format(
                    name=conversation_id, holder=holder
                ),
                _("Close it there, or continue in a copy."),
            )

    def release(self, conversation_id: str) -> None:
        """Unlocks a conversation, after writing its journal into its file."""
        with self._turn, contextlib.suppress(OSError):  # a lock file that remains locks nothing
            known = self._known.get(conversation_id)
            if known and known.journal_digest and conversation_id in self._locks.held():
                with contextlib.suppress(StoreError, OSError):  # the journal is kept
                    self._write_whole(known.conversation, self._place(known.conversation))
            self._locks.release(conversation_id)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Releases all conversations."""
        for conversation_id in self._locks.held():
            self.release(conversation_id)

    @contextlib.contextmanager
    def _in_turn(self) -> Iterator[None]:
        """Waits for a running save, but not for a disk that hangs."""
        if not self._turn.acquire(timeout=WAIT_SECONDS):
            raise StoreError(
                _("the disk of {folder!r} does not respond").format(folder=str(self.folder)),
                _("Try again when it responds."),
            )
        try:
            yield
        finally:
            self._turn.release()

    # ---- finding files

    def _files(self, id_prefix: str = "") -> list[tuple[Path, os.stat_result]]:
        try:
            return list_files(self.folder, id_prefix)
        except OSError as error:
            raise StoreError(
                _("cannot list the conversations in {folder!r}: {reason}").format(
                    folder=str(self.folder), reason=error.strerror
                )
            ) from error

    def _by_age(self) -> list[tuple[Path, os.stat_result]]:
        return sorted(self._files(), key=lambda f: (f[1].st_mtime_ns, f[0].name), reverse=True)

    def _find(self, id_or_prefix: str) -> Path:
        wanted = id_or_prefix.lower()
        if wanted == "last":
            if latest := self.latest():
                return latest.path
            raise ConversationNotFound(_("there are no saved conversations"))
        files = [path for path, _ in self._files(wanted) if id_of(path).startswith(wanted)]
        exact = [path for path in files if id_of(path) == wanted]
        candidates = exact or (files if wanted else [])
        if not candidates:
            raise ConversationNotFound(
                _("no saved conversation has the id {name!r}").format(name=id_or_prefix),
                _("`glmtui list` shows all conversations."),
            )
        if len(candidates) > 1:
            names = sorted(repr(path.name) for path in candidates)
            shown = ", ".join(names[:8]) + (", …" if names[8:] else "")
            raise ConversationNotFound(
                _("{name!r} matches several conversations: {names}").format(
                    name=id_or_prefix, names=shown
                ),
                _("Give more characters of the id: the eight at the end of the file name."),
            )
        return candidates[0]

    # ---- writing

    def _write(self, conversation: Conversation) -> Path:
        path, known = self._place(conversation), self._known.get(conversation.id)
        there = known is not None and known.path == path and path.exists()
        if known and there and (now := known.write_journal(conversation)):
            self._known[conversation.id] = now
            return path
        return self._write_whole(conversation, path)

    def _write_whole(self, conversation: Conversation, path: Path) -> Path:
        data = dumps(conversation, format_of(path)).encode()
        known, digest = self._known.get(conversation.id), digest_of(data)
        if known is None or (known.path, known.digest) != (path, digest) or not path.exists():
            if known is not None and known.journal_digest:
                known.mark_superseded(digest)
            count = len(conversation.messages)
            journal_digest = known.journal_digest if known else b""
            self._tried[conversation.id] = SavedState(
                path, digest, (0, 0, 0), len(data), conversation, count, journal_digest
            )
            replace_file(path, data, prefix=f".{conversation.id}-")
        if known is not None and known.journal_digest:
            remove_file(journal_path(path, conversation.id))
        count = len(conversation.messages)
        self._known[conversation.id] = SavedState(
            path, digest, stamp_of(path), len(data), conversation, count
        )
        self._tried.pop(conversation.id, None)
        return path

    def _place(self, conversation: Conversation) -> Path:
        """The path to save to.

        Raises:
            ConversationChanged: its file was changed since this program read or wrote it.
        """
        known = self._known.get(conversation.id)
        if known and known.path.exists():
            there = [known.path]
        else:
            there = [
                path for path, _ in self._files(conversation.id) if id_of(path) == conversation.id
            ]
        for path in there:
            with reading_errors(path):
                unchanged = known and known.matches_file(path)
                # A save that failed may still have replaced the file.
                tried = None if unchanged else self._tried.get(conversation.id)
                if tried is not None and tried.matches_file(path):
                    self._known[conversation.id] = replace(tried, stamp=stamp_of(path))
                    unchanged = True
            if not unchanged:
                raise ConversationChanged(
                    _("{file!r} was changed by another program since it was opened").format(
                        file=path.name
                    ),
                    _("Reopen it to see the change, or continue in a copy."),
                )
        if there:
            return there[0]
        return known.path if known else self.folder / file_name(conversation, self.file_format)

    # ---- corrupt files

    def _set_aside(self, path: Path, error: CorruptConversation) -> CorruptConversation:
        """Renames a corrupt file. Returns the error with the new name in its hint."""
        try:
            aside = path.rename(name_for_corrupt(path))
        except OSError:  # it keeps its name; nothing overwrites it
            return error
        hint = _("It was renamed to {file!r}. Correct it and load it with `glmtui import`.")
        return CorruptConversation(error.message, hint.format(file=aside.name))
