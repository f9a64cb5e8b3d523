"""What was sent, in a file that outlives the session: one JSON string a line, oldest first.

Knows nothing of prompts. Programs that share the file add to it line by line.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from glmtui.system.durable_files import encode_utf8, make_private_folder, read_bounded, replace_file

MOST = 1_000
"""Texts that are kept."""
LONGEST = 20_000
"""Characters of one that is kept."""
MOST_BYTES = 2 * 2**20
"""Of the file; twice as many of both and it is shortened."""


class QuestionHistory:
    """The file at `path`, for its owner alone. A file that cannot be used is as good as empty."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[str]:
        """The texts, oldest first; lines that are not ours are passed over."""
        try:
            lines = read_bounded(self._path, 64 * MOST_BYTES).splitlines(keepends=True)
        except OSError:
            return []
        if len(lines) > 2 * MOST or sum(map(len, lines)) > 2 * MOST_BYTES:
            lines = self._shorten(lines[-MOST:])
        found = []
        for line in lines[-MOST:]:
            try:
                text = json.loads(line)
            except ValueError:  # cut short by a full disk
                continue
            if isinstance(text, str):
                found.append(text)
        return found

    def add(self, text: str) -> None:
        """One more text; one that is too long is not kept."""
        if len(text) > LONGEST:
            return
        line = json.dumps(text, ensure_ascii=False) + "\n"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        # A convenience: that the disk is full is said where a conversation is saved.
        with contextlib.suppress(OSError):
            make_private_folder(self._path.parent)
            handle = os.open(self._path, flags, 0o600)
            with os.fdopen(handle, "ab", buffering=0) as file:
                file.write(encode_utf8(line))

    def _shorten(self, lines: list[bytes]) -> list[bytes]:
        """Keeps the last of these lines, as many as there is room for, and no others."""
        while sum(map(len, lines)) > MOST_BYTES:
            lines = lines[len(lines) // 2 + 1 :]
        with contextlib.suppress(OSError):  # else another time
            replace_file(self._path, b"".join(lines), synced=False)
        return lines
