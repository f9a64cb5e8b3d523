"""Reading a TOML file that the user edits: size limits, and the line numbers of its entries."""

from __future__ import annotations

import bisect
import re
from pathlib import Path
from typing import Any

import tomli

from glmtui.errors import ConfigError
from glmtui.language import _
from glmtui.system.durable_files import read_bounded

MAX_BYTES = 1 << 16  # a file with every setting has 4 KB
# How often `line_of_entry` goes back over a line that only looks like the start of a value.
MAX_STEPS_BACK = 8
_VALUE_START = re.compile(r"\"{3}|'{3}|[\[{]")  # starts a value of several lines


def read_toml(path: Path, problems: list[ConfigError]) -> tuple[str, dict[str, Any]]:
    """The text of a file and its content.

    If it cannot be read, both are empty and the error is appended to `problems`.
    """
    hint = _("The whole file is ignored.")
    try:
        text = read_bounded(path, MAX_BYTES).decode("utf-8-sig")
        return text, tomli.loads(text)
    except RecursionError:
        problems.append(
            ConfigError(_("{path}: tables are nested too deeply").format(path=path), hint)
        )
    except tomli.TOMLDecodeError as error:
        problems.append(
            ConfigError(
                _("{path}, line {line}: invalid TOML: {reason}").format(
                    path=path, line=error.lineno, reason=error.msg
                ),
                hint,
            )
        )
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        problems.append(
            ConfigError(_("{path}, line {line}: invalid UTF-8").format(path=path, line=line), hint)
        )
    except OSError as error:
        problems.append(
            ConfigError(
                _("Could not read {path}: {reason}").format(path=path, reason=error.strerror), hint
            )
        )
    return "", {}


def with_location(error: ConfigError, path: Path, text: str, entry: tuple[str, ...]) -> ConfigError:
    """The error with the file and the line of the entry in front."""
    location = _("{path}, line {line}").format(path=path, line=line_of_entry(text, entry))
    return ConfigError(f"{location}: {error.message}", error.hint)


def line_of_entry(text: str, entry: tuple[str, ...]) -> int:
    """The line on which an entry of a TOML document starts, counted from 1.

    tomli does not report lines. But it can parse the first n lines of the document: the smallest n
    with the entry in the result is the entry's last line, and the longest valid document before it
    ends just above the entry.

    Args:
        entry: the keys that lead to the entry.
    """
    lines = text.split("\n")

    def parse_start(count: int) -> tuple[int, dict[str, Any]]:
        """The longest valid document within the first `count` lines: its length and content."""
        for _step in range(MAX_STEPS_BACK):
            try:
                return count, tomli.loads("\n".join(lines[:count]))
            except tomli.TOMLDecodeError:  # the last line is within a value of several lines
                starts = (n for n in range(count - 1, 0, -1) if _VALUE_START.search(lines[n]))
                count = next(starts, 0)
        return 0, {}

    def has_entry(count: int) -> bool:
        value: Any = parse_start(count)[1]
        for key in entry:
            if not isinstance(value, dict) or key not in value:
                return False
            value = value[key]
        return True

    last_line = bisect.bisect_left(range(len(lines) + 1), True, key=has_entry)
    return parse_start(last_line - 1)[0] + 1
