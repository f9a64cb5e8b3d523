"""A TOML file of a person's: read with bounds, and told line by line what is wrong with it.

Knows TOML and where its entries stand; not what they mean.
"""

from __future__ import annotations

import bisect
from pathlib import Path
from typing import Any

import tomli

from glmtui.errors import ConfigError
from glmtui.store.durable import read_bounded

MAX_BYTES = 1 << 20


def read(path: Path, problems: list[ConfigError]) -> tuple[str, dict[str, Any]]:
    """The text of a file and the document it is; both empty, with a problem more, if it is none."""
    hint = "Nothing of this file is in force."
    try:
        text = read_bounded(path, MAX_BYTES).decode("utf-8-sig")
        return text, tomli.loads(text)
    except RecursionError:
        problems.append(ConfigError(f"{path}: its tables go too deep", hint))
    except tomli.TOMLDecodeError as error:
        where = f"{path}, line {error.lineno}"
        problems.append(ConfigError(f"{where}: this is not TOML: {error.msg}", hint))
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        problems.append(ConfigError(f"{path}, line {line}: this is not UTF-8", hint))
    except OSError as error:
        problems.append(ConfigError(f"{path} cannot be read: {error.strerror}", hint))
    return "", {}


def located(error: ConfigError, path: Path, text: str, entry: tuple[str, ...]) -> ConfigError:
    """The error with the file and the line of the entry that it is about."""
    where = f"{path}, line {line_of(text, entry)}"
    return ConfigError(f"{where}: {error.message}", error.hint)


def line_of(text: str, entry: tuple[str, ...]) -> int:
    """The line of a TOML document on which the entry with this path begins, counted from 1.

    tomli does not say. So this asks it which beginnings of the document are documents too: the
    first of them that has the entry ends with it, and the one before that ends just above it.
    """
    lines = text.split("\n")

    def readable(count: int) -> tuple[int, dict[str, Any]]:
        """The longest document among the beginnings of at most `count` lines."""
        while count:
            try:
                return count, tomli.loads("\n".join(lines[:count]))
            except tomli.TOMLDecodeError:  # it ends within a value of several lines
                count -= 1
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
