"""The history of sent questions: a file with one JSON string per line, oldest first.

Several programs may append to the same file.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from glmtui.system.durable_files import encode_utf8, make_private_folder, read_bounded, replace_file

MOST = 1_000
"""Number of questions that are kept."""
LONGEST = 20_000
"""Characters of a question; longer ones are not added."""
MOST_BYTES = 2 * 2**20
"""Size of the file. It is shortened when it has twice as many bytes, or twice `MOST` lines."""


class QuestionHistory:
    """The history in the file at `path`, readable by its owner only.

    A file that cannot be used counts as empty.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[str]:
        """The questions, oldest first; lines that cannot be parsed are skipped."""
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
            except ValueError:  # truncated by a full disk
                continue
            if isinstance(text, str):
                found.append(text)
        return found

    def add(self, text: str) -> None:
        """Appends a question, unless it is longer than `LONGEST`."""
        if len(text) > LONGEST:
            return
        line = json.dumps(text, ensure_ascii=False) + "\n"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        # The history is a convenience: a full disk is reported when the conversation is saved.
        with contextlib.suppress(OSError):
            make_private_folder(self._path.parent)
            handle = os.open(self._path, flags, 0o600)
            with os.fdopen(handle, "ab", buffering=0) as file:
                file.write(encode_utf8(line))

    def _shorten(self, lines: list[bytes]) -> list[bytes]:
        """Rewrites the file with as many of the last lines as fit in `MOST_BYTES`."""
        while sum(map(len, lines)) > MOST_BYTES:
            lines = lines[len(lines) // 2 + 1 :]
        with contextlib.suppress(OSError):  # tried again at the next start
            replace_file(self._path, b"".join(lines), synced=False)
        return lines
