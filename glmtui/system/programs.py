"""Starting other programs so that the folder one stands in has no say in what runs.

A folder that somebody unpacked may hold a ``pip.py``, a ``cc`` or a ``torch.py``. `python -m` and
`python -c` look for modules in the working folder first, and so do a ``.`` and an empty entry of
PATH. Programs that the user names (editor, tools, $CC) run where the user is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

SAFE_FOLDER = "/"  # where a program of our choice stands: only the administrator writes there


def find_program(name: str, path: str | None = None) -> str | None:
    """The whole path of a program that we choose, from the absolute folders of PATH alone.

    Args:
        path: instead of the environment's PATH.
    """
    folders = os.get_exec_path() if path is None else path.split(os.pathsep)
    return shutil.which(name, path=os.pathsep.join(filter(os.path.isabs, folders)) or os.devnull)


def python_module_command(name: str) -> list[str]:
    """The command that runs a module of this Python; to be started in `SAFE_FOLDER`."""
    safe = ["-P"] if sys.version_info >= (3, 11) else []
    return [sys.executable, *safe, "-m", name]


def absolute_import_path() -> list[str]:
    """`sys.path` for a child of ours: whole paths, without "", which is the working folder."""
    return [str(Path(folder).absolute()) for folder in sys.path if folder]


def remove_working_folder_from_path(package: str) -> None:
    """Takes the working folder, which `python -m` puts first, off `sys.path`.

    It stays where it holds the package itself, which has been imported from there already.

    Args:
        package: the file of the package's ``__init__``.
    """
    here, home = str(Path.cwd()), str(Path(package).absolute().parents[1])
    if sys.path and sys.path[0] in ("", here) and home != here:
        del sys.path[0]


@contextlib.contextmanager
def chdir_to_safe_folder() -> Iterator[None]:
    """Meanwhile the process stands in `SAFE_FOLDER`: for libraries that start a Python of theirs.

    All threads stand there. Raises OSError where the folder it stood in is gone.
    """
    back = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(SAFE_FOLDER)
        yield
    finally:
        os.fchdir(back)
        os.close(back)
