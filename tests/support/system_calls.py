"""Stops a program at each of its system calls in turn, or has that call fail.

An act (see `acts`) runs in a process of its own, forked from one that has everything imported. The
calls that can change a disk are counted there; at a given one the process dies, or the call raises
an error. What was done before it is real. `states_after_a_power_cut` is a model: it gives what a
disk may hold if it loses what was not synced.
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

Disk: TypeAlias = dict[str, "bytes | str"]
"""The files below a folder, by their path from there; a str is where a symbolic link leads."""

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
    """How an act went.

    Attributes:
        calls: how many calls there were; what each was.
        died: whether it was ended at one of them.
        error: what it raised; "" for nothing.
        log: what it did to the disk, for `states_after_a_power_cut`.
    """

    calls: list[str]
    died: bool
    error: str
    log: list[list[Any]]


class Calls:
    """Counts calls, and has the one at `at` (from 0; and those after it if `lasting`) go wrong.

    Args:
        fault: "" for none, "kill", "short" (a write that takes half), or an error number.
    """

    def __init__(self, folder: Path, fault: str, at: int, lasting: bool) -> None:
        self.names: list[str] = []
        self.log: list[list[Any]] = []
        self._folder = folder
        self._fault, self._at, self._lasting = fault, at, lasting
        self._inside = False
        self._files: dict[str, int] = {}
        self._ids = itertools.count()
        self._kept: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> Calls:
        for owner, name in COUNTED:
            real = getattr(owner, name)
            self._kept.append((owner, name, real))
            setattr(owner, name, self._counting(name, real))
        return self

    def __exit__(self, *_: object) -> None:
        for owner, name, real in self._kept:
            setattr(owner, name, real)

    def _counting(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._inside:  # pathlib calls os
                return real(*args, **kwargs)
            self._inside = True
            try:
                args = self._meddle(name, args)
                before = self._seen(name, args)
                result = real(*args, **kwargs)
                self._note(name, args, before)
                return result
            finally:
                self._inside = False

        return call

    def _meddle(self, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        number = len(self.names)
        self.names.append(name)
        if not self._fault or not (number == self._at or (self._lasting and number > self._at)):
            return args
        if self._fault == "kill":
            os._exit(9)
        if self._fault == "short":
            return (args[0], args[1][: len(args[1]) // 2 + 1]) if name == "write" else args
        if name != "close":  # a file is closed even where that says that something went wrong
            raise OSError(int(self._fault), os.strerror(int(self._fault)))
        return args

    # ---- the log: files by numbers, names by their path

    def _seen(self, name: str, args: tuple[Any, ...]) -> bool:
        return name == "open" and os.path.lexists(args[0])

    def _path(self, path: Any) -> str:
        return os.path.relpath(path, self._folder)

    def _of(self, handle: int) -> str:
        return self._path(Path(f"/proc/self/fd/{handle}").readlink())

    def _note(self, name: str, args: tuple[Any, ...], there: bool) -> None:
        if str(args[0]).endswith(".lock"):  # they mean nothing after a power cut
            return
        if name == "open" and args[1] & os.O_CREAT and not there:
            path = self._path(args[0])
            self._files[path] = next(self._ids)
            self.log.append(["link", path, self._files[path]])
        elif name in ("write", "ftruncate") and (path := self._of(args[0])) in self._files:
            data = os.pread(args[0], 2**24, 0).decode()
            self.log.append(["data", self._files[path], data])
        elif name == "fsync":
            path = self._of(args[0])
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


# ---- acts in processes of their own

NURSERY = """
import sys
sys.path[:0] = {paths!r}
from support import system_calls
system_calls.nursery()
"""


class Nursery:
    """Runs acts, each in a process forked from one that has all imported; a context manager."""

    def __enter__(self) -> Nursery:
        tests = Path(__file__).parents[1]
        paths = [str(tests), str(tests.parent)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY.format(paths=paths)],
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
        lasting: bool = False,
        steps: int | None = None,
    ) -> Outcome:
        """An act on a folder, or its first steps. After an error that it raised it is done again,
        without faults."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = [act, str(folder), fault, at, lasting, steps]
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        return Outcome(**json.loads(self._process.stdout.readline()))


def nursery() -> None:
    """Forks for every line of stdin, and prints how each went."""
    from support import disk_acts

    for line in sys.stdin:
        name, folder, fault, at, lasting, count = json.loads(line)
        read, write = os.pipe()
        if not os.fork():
            os.close(read)
            steps = disk_acts.ACTS[name](Path(folder))[:count]
            calls = Calls(Path(folder), fault, at, lasting)
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


# ---- a disk that loses what was not synced


def disk(folder: Path) -> Disk:
    """The files below a folder."""
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def fill(folder: Path, state: Disk) -> None:
    """Makes these files."""
    for name, held in state.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(held, str):
            path.symlink_to(held)
        else:
            path.write_bytes(held)


def states_after_a_power_cut(before: Disk, log: list[list[Any]]) -> Iterator[tuple[bool, Disk]]:
    """What may be on the disk: with whether the act had ended, for a cut at each of its steps.

    Of the names changed since their folder was synced any may be lost, and of a file not synced
    all that is in it.
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


def _state(before: Disk, done: list[list[Any]], lost: set[int], empty: bool) -> Disk:
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
    found: Disk = {}
    for name, held in names.items():
        if not isinstance(held, int):
            found[name] = held
        else:
            cut = empty and held in unsynced
            found[name] = b"" if cut else contents.get(held, "").encode()
    return found
