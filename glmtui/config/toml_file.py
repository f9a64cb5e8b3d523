"""A TOML file of a person's: read with bounds, and told line by line what is wrong with it.

Knows TOML and where its entries stand; not what they mean.
"""

from __future__ import annotations

import bisect
import re
from pathlib import Path
from typing import Any

import tomli

from glmtui.errors import ConfigError
from glmtui.language import _
from glmtui.system.durable_files import read_bounded

MAX_BYTES = 1 << 16  # with every setting it has 4 KB
MAX_STEPS_BACK = 8  # back over what looks like the beginning of a value and is not
_OPENS = re.compile(r"\"{3}|'{3}|[\[{]")  # what a value of several lines begins with


def read_toml(path: Path, problems: list[ConfigError]) -> tuple[str, dict[str, Any]]:
    """The text of a file and the document it is; both empty, with a problem more, if it is none."""
    hint = _("Nothing of this file is in force.")
    try:
        text = read_bounded(path, MAX_BYTES).decode("utf-8-sig")
        return text, tomli.loads(text)
    except RecursionError:
        problems.append(ConfigError(_("{path}: its tables go too deep").format(path=path), hint))
    except tomli.TOMLDecodeError as error:
        where = _("{path}, line {line}").format(path=path, line=error.lineno)
        problems.append(
            ConfigError(
                _("{where}: this is not TOML: {what}").format(where=where, what=error.msg), hint
            )
        )
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        problems.append(
            ConfigError(
                _("{path}, line {line}: this is not UTF-8").format(path=path, line=line), hint
            )
        )
    except OSError as error:
        problems.append(
            ConfigError(
                _("{path} cannot be read: {reason}").format(path=path, reason=error.strerror), hint
            )
        )
    return "", {}


def with_location(error: ConfigError, path: Path, text: str, entry: tuple[str, ...]) -> ConfigError:
    """The error with the file and the line of the entry that it is about."""
    where = _("{path}, line {line}").format(path=path, line=line_of_entry(text, entry))
    return ConfigError(f"{where}: {error.message}", error.hint)


def line_of_entry(text: str, entry: tuple[str, ...]) -> int:
    """The line of a TOML document on which the entry with this path begins, counted from 1.

    tomli does not say. So this asks it which beginnings of the document are documents too: the
    first of them that has the entry ends with it, and the one before that ends just above it.
    """
    lines = text.split("\n")

    def readable(count: int) -> tuple[int, dict[str, Any]]:
        """The longest document among the beginnings of at most `count` lines."""
        for _step in range(MAX_STEPS_BACK):
            try:
                return count, tomli.loads("\n".join(lines[:count]))
            except tomli.TOMLDecodeError:  # it ends within a value of several lines
                opening = (n for n in range(count - 1, 0, -1) if _OPENS.search(lines[n]))
                count = next(opening, 0)
        return 0, {}

    def has_entry(count: int) -> bool:
        found: Any = readable(count)[1]
        for key in entry:
            if not isinstance(found, dict) or key not in found:
                return False
            found = found[key]
        return True

    last = bisect.bisect_left(range(len(lines) + 1), True, key=has_entry)
    return readable(last - 1)[0] + 1
