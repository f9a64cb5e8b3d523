"""Starts other programs without running files from the working folder.

A downloaded folder may contain a ``pip.py``, a ``cc`` or a ``torch.py``. `python -m` and `python
-c` search the working folder first, and so do ``.`` and an empty entry in PATH. Programs that the
user names (editor, tools, $CC) run in the user's working folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

SAFE_FOLDER = "/"  # working folder of programs that glmtui chooses: only root can write there


def find_program(name: str, path: str | None = None) -> str | None:
    """The absolute path of a program, searched in the absolute folders of PATH only.

    Args:
        path: replaces the environment's PATH.
    """
    folders = os.get_exec_path() if path is None else path.split(os.pathsep)
    return shutil.which(name, path=os.pathsep.join(filter(os.path.isabs, folders)) or os.devnull)


def python_module_command(name: str) -> list[str]:
    """The command that runs a module with this Python. Start it in `SAFE_FOLDER`."""
    safe = ["-P"] if sys.version_info >= (3, 11) else []
    return [sys.executable, *safe, "-m", name]


def absolute_import_path() -> list[str]:
    """`sys.path` for a child process: absolute paths, without "", which is the working folder."""
    return [str(Path(folder).absolute()) for folder in sys.path if folder]


def remove_working_folder_from_path(package: str) -> None:
    """Remove the working folder, which `python -m` puts first, from `sys.path`.

    It stays if it contains the package itself, which was imported from there.

    Args:
        package: path of the package's ``__init__.py``.
    """
    here, home = str(Path.cwd()), str(Path(package).absolute().parents[1])
    if sys.path and sys.path[0] in ("", here) and home != here:
        del sys.path[0]


@contextlib.contextmanager
def chdir_to_safe_folder() -> Iterator[None]:
    """Change the working folder to `SAFE_FOLDER` in the block, for libraries that start Python.

    Affects all threads. Raises OSError if the previous working folder was deleted.
    """
    previous = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(SAFE_FOLDER)
        yield
    finally:
        os.fchdir(previous)
        os.close(previous)
