"""Conversations on disk: one file each, ``<date>-<slug>-<id>.toml`` or ``.json``.

Knows names, locks, atomic writes and what to do with files it cannot read; what stands in them is
`glmtui.store.format`. A file is replaced as a whole or not at all, and only if it is still
as this program last read or wrote it; what is new in a large one lies beside it (see `journal`)
until it is left. The id of a conversation is the end of its file's name, so a copied or renamed
file is a conversation of its own.
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
    naming,
    peek_at,
    summary,
    text_of,
    writing_in,
)
from glmtui.store.file_listing import files_of
from glmtui.store.file_names import file_name, format_of, free_name_aside, id_of
from glmtui.store.format import FileFormat, dumps, loads
from glmtui.store.index import Index
from glmtui.store.journal import JournalState, beside, digest_of, stamp_of
from glmtui.store.leftovers import remove_leftovers
from glmtui.store.locks import FolderLocks
from glmtui.store.trash import Trash
from glmtui.system.durable_files import make_private_folder, read_bounded, remove_file, replace_file

TURN_SECONDS = 5.0
"""How long a load waits for a save to end; one of 50 MB takes less."""
MOST_READS = 3


class Store:
    """The conversations of one folder. Any thread may ask; a save and a load take turns.

    Making one removes what a program that died left behind; the folder itself is made by the
    first save.

    Args:
        file_format: of new files; a file keeps the one it has.

    Attributes:
        problems: what the last `summaries` could not list, and why.
    """

    def __init__(self, folder: Path, file_format: FileFormat = "toml") -> None:
        self.folder = folder
        self.file_format: FileFormat = file_format
        self.problems: tuple[StoreError, ...] = ()
        self._trash = Trash(folder)
        self._known: dict[str, JournalState] = {}
        self._tried: dict[str, JournalState] = {}  # what the last file that was begun is to be
        self._locks = FolderLocks(folder)
        self._turn = threading.RLock()
        # A folder that cannot be read or written says so when it is used.
        with contextlib.suppress(OSError):
            self._clean()

    @property
    def unlocked(self) -> str:
        """Why this folder has no locks (some network file systems); empty where it has.

        Known after the first `hold` or `save`. Without locks, what another program saved is still
        not overwritten, unless both save in the same instant.
        """
        return self._locks.missing

    # ---- one conversation

    def save(self, conversation: Conversation) -> Path:
        """Writes the conversation; on return it survives a power cut.

        Raises ConversationInUse if another program holds it, ConversationChanged if its file is
        not as we last read or wrote it, StoreError if the disk will not take it. The file is then
        as it was; `Conversation.fork` can be saved instead.
        """
        with self._turn:
            self.hold(conversation.id)
            with writing_in(self.folder):
                return self._write(conversation)

    def load(self, id_or_prefix: str) -> Conversation:
        """The conversation whose id starts so, or the newest for "last".

        Raises ConversationNotFound if there is none or more than one, CorruptConversation after
        setting the file aside, NewerFormat, StoreError.
        """
        with self._in_turn():
            path = self._find(id_or_prefix)
            for _attempt in range(MOST_READS):
                known = self._read(path)
                # Two files: another program may have written one of them between our reads.
                with naming(path):
                    if known.stamp == stamp_of(path):
                        break
            self._known[known.conversation.id] = known
            self._tried.pop(known.conversation.id, None)
            return known.conversation

    def _read(self, path: Path) -> JournalState:
        try:
            with naming(path):
                stamp, data = stamp_of(path), read_bounded(path, MAX_BYTES)
                conversation = replace(loads(text_of(data), format_of(path)), id=id_of(path))
        except CorruptConversation as error:
            raise self._set_aside(path, error) from error
        more = beside(path, conversation.id)
        try:
            with naming(more):
                return journal.read(path, data, stamp, conversation)
        except CorruptConversation as error:
            raise self._set_aside(more, error) from error

    def amend(
        self, id_or_prefix: str, *, title: str | None = None, pinned: bool | None = None
    ) -> None:
        """Gives a conversation another title, or pins it or not; None leaves it as it is.

        It keeps its place in the list. Raises like `load` and `save`.
        """
        with self._in_turn():
            conversation = self.load(id_or_prefix)
            held = conversation.id in self._locks.held()
            if title is not None:
                conversation = replace(conversation, title=title)
            if pinned is not None:
                conversation = replace(conversation, pinned=pinned)
            try:
                with writing_in(self.folder):
                    before = self._known[conversation.id].path.stat()
                    path = self.save(conversation)
                    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            finally:
                if not held:
                    self.release(conversation.id)

    def delete(self, id_or_prefix: str) -> None:
        """Puts a conversation's file into the trash, from where `restore` brings it back.

        After `trash.TRASH_DAYS` it is gone for good. Raises like `load` and `save`.
        """
        with self._in_turn():
            path = self._find(id_or_prefix)
            self.hold(id_of(path))
            try:
                with writing_in(self.folder):
                    self._trash.put(path)
                self._known.pop(id_of(path), None)
            finally:
                self.release(id_of(path))

    def restore(self, conversation_id: str) -> None:
        """Brings a deleted conversation back. Raises ConversationNotFound, StoreError."""
        with self._in_turn():
            there = self._trash.find(conversation_id)
            if there is None:
                raise ConversationNotFound(
                    _("{name!r} is not in the trash any more").format(name=conversation_id)
                )
            if any(id_of(path) == conversation_id for path, _ in self._files(conversation_id)):
                raise StoreError(
                    _("conversation {name} is there again; it is not overwritten").format(
                        name=conversation_id
                    ),
                    _("The deleted one is in {path}.").format(path=there),
                )
            self.hold(conversation_id)
            try:
                with writing_in(self.folder):
                    self._trash.give_back(there)
            finally:
                self.release(conversation_id)

    # ---- all of them

    def summaries(self) -> list[Summary]:
        """All conversations, newest first. Corrupt files are set aside; see `problems`."""
        return list(self.each_summary())

    def each_summary(self) -> Iterator[Summary]:
        """`summaries` as they are read; `problems` are those of the whole once it is."""
        problems: list[StoreError] = []
        index = Index(self.folder)
        for path, status in self._by_age():
            there = index.get(path.name, status)
            try:
                if there is None:
                    there = peek_at(path)
                    index.put(path.name, status, there)
                yield summary(path, status, there)
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
        """The conversation written last that can be read."""
        for path, status in self._by_age():
            with contextlib.suppress(StoreError):
                return summary(path, status, peek_at(path))
        return None

    # ---- who may write

    def hold(self, conversation_id: str) -> None:
        """Keeps other programs from saving this conversation until `release` or `close`.

        Raises ConversationInUse if another program holds it, StoreError if nothing can be written
        here at all.
        """
        with self._turn, writing_in(self.folder):
            make_private_folder(self.folder)
            held = self._locks.take(conversation_id)
        if not held:
            holder = self._locks.holder(conversation_id) or "unknown"
            raise ConversationInUse(
                _("conversation {name} is open in another glmtui (process {holder})").format(
                    name=conversation_id, holder=holder
                ),
                _("Close it there, or go on in a copy of it."),
            )

    def release(self, conversation_id: str) -> None:
        """Lets other programs save it again; what lies beside its file goes into it."""
        with self._turn, contextlib.suppress(OSError):  # a file that stays behind is no lock
            known = self._known.get(conversation_id)
            if known and known.later and conversation_id in self._locks.held():
                with contextlib.suppress(StoreError, OSError):  # it stays where it is
                    self._write_whole(known.conversation, self._place(known.conversation))
            self._locks.release(conversation_id)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives up all that is held."""
        for conversation_id in self._locks.held():
            self.release(conversation_id)

    @contextlib.contextmanager
    def _in_turn(self) -> Iterator[None]:
        """Waits for a save to end, though not for a disk that hangs."""
        if not self._turn.acquire(timeout=TURN_SECONDS):
            raise StoreError(
                _("the disk of {folder!r} does not answer").format(folder=str(self.folder)),
                _("Try again when it does."),
            )
        try:
            yield
        finally:
            self._turn.release()

    # ---- finding files

    def _files(self, id_prefix: str = "") -> list[tuple[Path, os.stat_result]]:
        try:
            return files_of(self.folder, id_prefix)
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
            raise ConversationNotFound(_("there are no saved conversations yet"))
        files = [path for path, _ in self._files(wanted) if id_of(path).startswith(wanted)]
        exact = [path for path in files if id_of(path) == wanted]
        candidates = exact or (files if wanted else [])
        if not candidates:
            raise ConversationNotFound(
                _("no saved conversation has the id {name!r}").format(name=id_or_prefix),
                _("`glmtui list` shows them all."),
            )
        if len(candidates) > 1:
            names = sorted(repr(path.name) for path in candidates)
            shown = ", ".join(names[:8]) + (", …" if names[8:] else "")
            raise ConversationNotFound(
                _("{name!r} could be {names}").format(name=id_or_prefix, names=shown),
                _("Give more of the id, the eight letters at the end of the name."),
            )
        return candidates[0]

    # ---- writing

    def _write(self, conversation: Conversation) -> Path:
        path, known = self._place(conversation), self._known.get(conversation.id)
        there = known is not None and known.path == path and path.exists()
        if known and there and (now := known.with_later(conversation)):
            self._known[conversation.id] = now
            return path
        return self._write_whole(conversation, path)

    def _write_whole(self, conversation: Conversation, path: Path) -> Path:
        data = dumps(conversation, format_of(path)).encode()
        known, digest = self._known.get(conversation.id), digest_of(data)
        if known is None or (known.path, known.digest) != (path, digest) or not path.exists():
            if known is not None and known.later:
                known.announce(digest)
            later, count = (known.later if known else b""), len(conversation.messages)
            self._tried[conversation.id] = JournalState(
                path, digest, (0, 0, 0), len(data), conversation, count, later
            )
            replace_file(path, data, prefix=f".{conversation.id}-")
        if known is not None and known.later:
            remove_file(beside(path, conversation.id))
        count = len(conversation.messages)
        self._known[conversation.id] = JournalState(
            path, digest, stamp_of(path), len(data), conversation, count
        )
        self._tried.pop(conversation.id, None)
        return path

    def _place(self, conversation: Conversation) -> Path:
        """The path to save at. Raises ConversationChanged."""
        known = self._known.get(conversation.id)
        if known and known.path.exists():
            there = [known.path]
        else:
            there = [
                path for path, _ in self._files(conversation.id) if id_of(path) == conversation.id
            ]
        for path in there:
            with naming(path):
                unchanged = known and known.is_still_at(path)
                # A save that failed may have got as far as the new file.
                tried = None if unchanged else self._tried.get(conversation.id)
                if tried is not None and tried.is_still_at(path):
                    self._known[conversation.id] = replace(tried, stamp=stamp_of(path))
                    unchanged = True
            if not unchanged:
                raise ConversationChanged(
                    _("{file!r} was changed by someone else since it was opened here").format(
                        file=path.name
                    ),
                    _("Open it again to see the change, or go on in a copy of the conversation."),
                )
        if there:
            return there[0]
        return known.path if known else self.folder / file_name(conversation, self.file_format)

    # ---- what is wrong, what is left

    def _set_aside(self, path: Path, error: CorruptConversation) -> CorruptConversation:
        """Renames a corrupt file; the error, with its new name for a hint."""
        try:
            aside = path.rename(free_name_aside(path))
        except OSError:  # it stays where it is; nothing overwrites it there either
            return error
        hint = _("It is kept as {file!r}: correct it and `glmtui import` it.")
        return CorruptConversation(error.message, hint.format(file=aside.name))

    def _clean(self) -> None:
        """Removes what no program uses any more."""
        remove_leftovers(self.folder, self._locks)
        self._trash.remove_old()
