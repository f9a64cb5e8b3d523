"""Fault injection at system calls: the process dies at a given call, or the call fails.

An act (see `disk_acts`) runs in its own process, forked from one that has everything imported. The
calls that can change a disk are counted there. `states_after_a_power_cut` computes what a disk may
contain if it loses what was not synced.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

Files: TypeAlias = dict[str, "bytes | str"]
"""The files below a folder by relative path; a str is the target of a symbolic link."""

COUNTED: tuple[tuple[Any, str], ...] = (
    (os, "open"),
    (os, "write"),
    (os, "ftruncate"),
    (os, "fsync"),
    (os, "close"),
    (os, "utime"),
    (fcntl, "flock"),
    (Path, "replace"),
    (Path, "unlink"),
    (Path, "hardlink_to"),
    (Path, "mkdir"),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of an act.

    Attributes:
        calls: the names of the system calls.
        died: whether the process was killed at one of them.
        error: what the act raised; "" for nothing.
        log: the changes of the disk, for `states_after_a_power_cut`.
    """

    calls: list[str]
    died: bool
    error: str
    log: list[list[Any]]


class FaultInjector:
    """Counts system calls and injects a fault into the one with index `at`.

    Args:
        fault: "" for none, "kill", "short" (half of a write), or an error number.
        permanent: whether the calls after it fail too.
    """

    def __init__(self, folder: Path, fault: str, at: int, permanent: bool) -> None:
        self.names: list[str] = []
        self.log: list[list[Any]] = []
        self._folder = folder
        self._fault, self._at, self._permanent = fault, at, permanent
        self._inside = False
        self._files: dict[str, int] = {}
        self._ids = itertools.count()
        self._originals: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> FaultInjector:
        for owner, name in COUNTED:
            real = getattr(owner, name)
            self._originals.append((owner, name, real))
            setattr(owner, name, self._wrap(name, real))
        return self

    def __exit__(self, *_: object) -> None:
        for owner, name, real in self._originals:
            setattr(owner, name, real)

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._inside:  # pathlib calls os
                return real(*args, **kwargs)
            self._inside = True
            try:
                args = self._inject_fault(name, args)
                before = self._exists(name, args)
                result = real(*args, **kwargs)
                self._record(name, args, before)
                return result
            finally:
                self._inside = False

        return call

    def _inject_fault(self, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        number = len(self.names)
        self.names.append(name)
        if not self._fault or not (number == self._at or (self._permanent and number > self._at)):
            return args
        if self._fault == "kill":
            os._exit(9)
        if self._fault == "short":
            return (args[0], args[1][: len(args[1]) // 2 + 1]) if name == "write" else args
        if name != "close":  # `close` closes the file even if it reports an error
            raise OSError(int(self._fault), os.strerror(int(self._fault)))
        return args

    # ---- the log: files have numbers, names are paths

    def _exists(self, name: str, args: tuple[Any, ...]) -> bool:
        return name == "open" and os.path.lexists(args[0])

    def _path(self, path: Any) -> str:
        return os.path.relpath(path, self._folder)

    def _path_of_handle(self, handle: int) -> str:
        return self._path(Path(f"/proc/self/fd/{handle}").readlink())

    def _record(self, name: str, args: tuple[Any, ...], there: bool) -> None:
        if str(args[0]).endswith(".lock"):  # meaningless after a power cut
            return
        if name == "open" and args[1] & os.O_CREAT and not there:
            path = self._path(args[0])
            self._files[path] = next(self._ids)
            self.log.append(["link", path, self._files[path]])
        elif (
            name in ("write", "ftruncate")
            and (path := self._path_of_handle(args[0])) in self._files
        ):
            data = os.pread(args[0], 2**24, 0).decode()
            self.log.append(["data", self._files[path], data])
        elif name == "fsync":
            path = self._path_of_handle(args[0])
            if (self._folder / path).is_dir():
                self.log.append(["syncfolder", path])
            elif path in self._files:
                self.log.append(["sync", self._files[path]])
        elif name == "replace":
            source, target = self._path(args[0]), self._path(args[1])
            self._files.pop(target, None)
            number = self._files.pop(source, None)
            if number is not None:
                self._files[target] = number
            self.log.append(["rename", source, target, number])
        elif name == "hardlink_to":
            number = self._files[self._path(args[1])]
            self._files[self._path(args[0])] = number
            self.log.append(["link", self._path(args[0]), number])
        elif name == "unlink":
            self._files.pop(self._path(args[0]), None)
            self.log.append(["unlink", self._path(args[0])])


# ---- acts in their own processes

FORK_SERVER = """
import sys
sys.path[:0] = {paths!r}
from support import system_calls
system_calls.serve_forks()
"""


class ForkServer:
    """Runs acts in processes forked from one that has everything imported. A context manager."""

    def __enter__(self) -> ForkServer:
        tests = Path(__file__).parents[1]
        paths = [str(tests), str(tests.parent)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", FORK_SERVER.format(paths=paths)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def run(
        self,
        act: str,
        folder: Path,
        fault: str = "",
        at: int = 0,
        *,
        permanent: bool = False,
        steps: int | None = None,
    ) -> Outcome:
        """Runs an act on a folder, or its first `steps`. If it raises an error, it is run again
        without faults."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = [act, str(folder), fault, at, permanent, steps]
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return Outcome(**json.loads(self._process.stdout.readline()))


def serve_forks() -> None:
    """Forks for every line of stdin and prints the Outcome."""
    from support import disk_acts

    for line in sys.stdin:
        name, folder, fault, at, permanent, count = json.loads(line)
        read, write = os.pipe()
        if not os.fork():
            os.close(read)
            steps = disk_acts.ACTS[name](Path(folder))[:count]
            calls = FaultInjector(Path(folder), fault, at, permanent)
            error = ""
            try:
                with calls:
                    for step in steps:
                        step()
            except (disk_acts.GlmtuiError, OSError) as raised:
                error = repr(raised)
                for step in steps:
                    step()
            report = {"calls": calls.names, "died": False, "error": error, "log": calls.log}
            with os.fdopen(write, "w") as file:
                json.dump(report, file)
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as file:
            text = file.read()
        os.wait()
        died = json.dumps({"calls": [], "died": True, "error": "", "log": []})
        print(text or died, flush=True)


# ---- power cuts


def read_files(folder: Path) -> Files:
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def write_files(folder: Path, state: Files) -> None:
    for name, content in state.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.symlink_to(content)
        else:
            path.write_bytes(content)


def states_after_a_power_cut(before: Files, log: list[list[Any]]) -> Iterator[tuple[bool, Files]]:
    """The possible contents of the disk after a power cut at each step, and whether the act had
    ended.

    Any change of a name may be lost until its folder is synced, and the content of a file until
    the file is synced.
    """
    seen: set[tuple[bool, frozenset[tuple[str, bytes | str]]]] = set()
    for end in range(len(log) + 1):
        done = log[:end]
        names = [n for n, step in enumerate(done) if step[0] in ("link", "rename", "unlink")]
        pending = [n for n in names if not _is_synced(done, n)]
        assert len(pending) <= 10, pending
        for lost in itertools.chain.from_iterable(
            itertools.combinations(pending, count) for count in range(len(pending) + 1)
        ):
            for empty in (False, True):
                state = _state(before, done, set(lost), empty)
                key = (end == len(log), frozenset(state.items()))
                if key not in seen:
                    seen.add(key)
                    yield end == len(log), state


def _is_synced(done: list[list[Any]], number: int) -> bool:
    step = done[number]
    folder = str(Path(step[2] if step[0] == "rename" else step[1]).parent)
    return ["syncfolder", folder] in done[number:]


def _state(before: Files, done: list[list[Any]], lost: set[int], empty: bool) -> Files:
    contents: dict[int, str] = {}
    unsynced: set[int] = set()
    names: dict[str, int | bytes | str] = dict(before)
    for number, step in enumerate(done):
        if step[0] == "data":
            contents[step[1]] = step[2]
            unsynced.add(step[1])
        elif step[0] == "sync":
            unsynced.discard(step[1])
        elif number in lost:
            continue
        elif step[0] == "link":
            names[step[1]] = step[2]
        elif step[0] == "unlink":
            names.pop(step[1], None)
        elif step[0] == "rename":
            moved = names.pop(step[1], None)
            moved = step[3] if moved is None else moved
            if moved is not None:
                names[step[2]] = moved
    found: Files = {}
    for name, content in names.items():
        if not isinstance(content, int):
            found[name] = content
        else:
            cut = empty and content in unsynced
            found[name] = b"" if cut else contents.get(content, "").encode()
    return found
