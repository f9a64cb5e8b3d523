"""``glmtui doctor``: what works on this machine, what does not, and what to do about it.

Looks, and changes nothing. torch is only ever imported in a child process, so that a broken
driver cannot take this one down. What is found becomes a `Finding`; printing is the caller's.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from glmtui import __version__, config
from glmtui.config import Settings
from glmtui.engine.catalog import resolver
from glmtui.engine.hardware.machine import Snapshot, snapshot
from glmtui.engine.nn.native.build import NO_COMPILER, Built, built
from glmtui.errors import ConfigError, GlmtuiError
from glmtui.net.addresses import shown_address, shown_name
from glmtui.system import paths
from glmtui.system.programs import SAFE_FOLDER
from glmtui.system.terminfo import can_place_cursor

PROBE_SECONDS = 120
PROBE = """\
import json, sys, torch
cuda = torch.cuda
found = {"cuda": torch.version.cuda, "usable": cuda.is_available(), "missing": {}}
if cuda.is_available():
    sys.path.append(sys.argv[1])
    from glmtui.engine.nn.linear.gpu_support import missing
    for capability in {cuda.get_device_capability(i) for i in range(cuda.device_count())}:
        found["missing"]["%d.%d" % capability] = missing(capability)
print(json.dumps(found))
"""
LOW_SPACE = 2e9  # bytes; less is not enough for any model but the smallest


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: "fail" means that glmtui cannot do its work like this.
        advice: what to do; empty where all is well.
    """

    level: Literal["ok", "warn", "fail"]
    subject: str
    what: str
    advice: str = ""

    @property
    def text(self) -> str:
        """One line, and the advice on a second."""
        advice = f"\n{'':18}{self.advice}" if self.advice else ""
        return f"{self.level:<6}{self.subject:<12}{self.what}{advice}"


def findings(
    settings: Settings, problems: Sequence[ConfigError], environ: Mapping[str, str] = os.environ
) -> Iterator[Finding]:
    """Everything worth looking at, as it is found; asking CUDA can take seconds."""
    yield Finding("ok", "Python", f"{platform.python_version()} at {sys.executable}")
    yield Finding("ok", "glmtui", f"{__version__} at {Path(__file__).parents[1]}")
    yield from _torch_and_gpus(snapshot())
    yield _cpu()
    yield from _terminal(environ)
    yield from _folders()
    yield from _models(settings)
    yield from _config(settings, problems, environ)


# ---- the machine


def _torch_and_gpus(machine: Snapshot) -> Iterator[Finding]:
    for gpu in machine.gpus:
        yield Finding("ok", "GPU", f"{gpu.name}, {_gb(gpu.free)} of {_gb(gpu.total)} GB free")
    if not machine.gpus:
        yield Finding("ok", "GPU", "no NVIDIA GPU found; models run on the CPU")
    memory = machine.memory
    yield Finding(
        "ok", "memory", f"{_gb(memory.available)} of {_gb(memory.total)} GB available to the CPU"
    )
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        yield Finding(
            "fail",
            "torch",
            "not installed; only servers can be chatted with",
            "Install it into the same environment: pip install torch",
        )
        return
    if not machine.gpus:
        yield Finding("ok", "torch", version)
    elif version.endswith("+cpu"):
        yield Finding(
            "warn",
            "torch",
            f"{version} is built without CUDA, so the GPU is not used",
            "Install a CUDA build of the same version from the torch website.",
        )
    else:
        yield from probe(version)


def probe(version: str) -> Iterator[Finding]:
    """Whether torch, of this version, can use the GPUs, and what multiplies with packed weights
    there; asked in a child process."""
    advice = "See whether `nvidia-smi` works; torch may need a newer driver."
    try:
        child = subprocess.run(
            [sys.executable, "-c", PROBE, str(Path(__file__).parents[2])],
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            cwd=SAFE_FOLDER,  # -c looks for modules in the working folder first
        )
    except subprocess.TimeoutExpired:
        yield Finding("fail", "torch", f"{version}: CUDA gave no answer in two minutes", advice)
        return
    if child.returncode:
        last = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
        yield Finding("fail", "torch", f"{version} cannot be imported: {last}", advice)
        return
    try:
        found = json.loads(child.stdout)
    except ValueError:
        yield Finding("fail", "torch", f"{version} gave a strange answer: {child.stdout}", advice)
        return
    if not found["usable"]:
        yield Finding("warn", "torch", f"{version} cannot use the GPU", advice)
        return
    yield Finding("ok", "torch", f"{version} with CUDA {found['cuda']}")
    for capability, missing in sorted(found["missing"].items()):
        yield from kernels(capability, missing)


def kernels(capability: str, missing: Mapping[str, str]) -> Iterator[Finding]:
    """What multiplies with int8 and int4 on GPUs of a compute capability.

    Args:
        missing: see `glmtui.engine.nn.linear.gpu_support.missing`.
    """
    reasons = dict(missing)
    optional = reasons.pop("cpm_kernels")
    tried = [name for name, reason in reasons.items() if not reason]
    yield Finding(
        "ok",
        "kernels",
        f"compute capability {capability}: for packed weights the fastest of "
        f"{' and '.join([*tried, 'unpacking'])}, tried as a model is loaded",
    )
    for name, reason in reasons.items():
        if reason:
            advice = "int8 and int4 are slower without it." if name == "triton" else ""
            yield Finding("warn" if advice else "ok", "kernels", f"no {name}: {reason}", advice)
    yield Finding("ok", "kernels", f"cpm_kernels: {optional or 'can be asked for (quant.kernel)'}")


def _cpu() -> Finding:
    try:
        return cpu_kernels(built())  # which compiles them, if need be
    except ConfigError as error:
        return Finding("fail", "CPU", error.message, error.hint)


def cpu_kernels(kernels: Built) -> Finding:
    """What computes on the CPU."""
    if kernels.library is not None:
        return Finding("ok", "CPU", f"compiled kernels for {kernels.isa}")
    said = f"no compiled kernels, torch's are slower: {kernels.problem}"
    if kernels.problem != NO_COMPILER:
        return Finding("ok", "CPU", said)
    return Finding("warn", "CPU", said, "Install a C compiler, such as with: apt install gcc")


def _gb(nbytes: int | None) -> str:
    return "n/a" if nbytes is None else f"{nbytes / 1e9:.1f}"


# ---- the terminal


def _terminal(environ: Mapping[str, str]) -> Iterator[Finding]:
    term = environ.get("TERM", "")
    if not sys.stdout.isatty():
        yield Finding("ok", "terminal", "not looked at, as stdout is not one")
    elif not can_place_cursor(environ):
        yield Finding(
            "warn",
            "terminal",
            f"TERM is {term or 'not set'}, which cannot place a cursor: the chat is plain lines",
            "export TERM=xterm-256color, if that is what it is",
        )
    else:
        columns, lines = shutil.get_terminal_size()
        colours = environ.get("COLORTERM") or "256 colours at most, as COLORTERM is not set"
        where = [f"TERM {term}", colours, f"{columns}x{lines}"]
        where += ["in tmux"] if environ.get("TMUX") else []
        where += ["over SSH"] if environ.get("SSH_CONNECTION") else []
        small = columns < 40 or lines < 10
        advice = "The app needs 40 columns and 10 lines." if small else ""
        yield Finding("warn" if small else "ok", "terminal", ", ".join(where), advice)
    encoding = sys.stdout.encoding
    if encoding.lower().replace("-", "") == "utf8":
        yield Finding("ok", "encoding", encoding)
    else:
        yield Finding(
            "warn",
            "encoding",
            f"{encoding}; characters that it lacks are shown as ?",
            "export LC_ALL=C.UTF-8",
        )


# ---- folders


def _folders() -> Iterator[Finding]:
    yield _folder("data", paths.data_dir(), "GLMTUI_DATA_DIR")
    yield _folder("models", resolver.models_dir(), "GLMTUI_CACHE_DIR", needed=LOW_SPACE)
    yield _folder("config", paths.config_dir(), "GLMTUI_CONFIG_DIR")
    yield _folder("logs", paths.state_dir(), "GLMTUI_STATE_DIR")


def _folder(subject: str, folder: Path, variable: str, needed: float = 0) -> Finding:
    """Whether there is a folder, or could be, that takes files."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "cannot be written" if there.is_dir() else "is not a folder"
        return Finding(
            "fail", subject, f"{there} {reason}", f"Change that, or set {variable} to another one."
        )
    free = shutil.disk_usage(there).free
    what = f"{folder}, {_gb(free)} GB free"
    if there != folder:
        what += " (made when it is needed)"
    if free < needed:
        advice = f"Most models need more: set {variable} to a larger disk."
        return Finding("warn", subject, what, advice)
    return Finding("ok", subject, what)


# ---- models and settings


def _models(settings: Settings) -> Iterator[Finding]:
    for note in sorted(resolver.models_dir().glob("*/manifest.json")):
        try:
            info = resolver.inspect(note.parent)
        except (GlmtuiError, OSError) as error:
            what = error.message if isinstance(error, GlmtuiError) else f"{note.parent}: {error}"
            yield Finding("fail", "model", what, f"Fetch it again, or remove {note.parent}.")
        else:
            never = f"; its own code is never run: {', '.join(info.code)}" if info.code else ""
            what = f"{info.name}, {_gb(info.nbytes)} GB, {info.stored}{never}"
            yield Finding("ok", "model", what)
    ref = settings.model or resolver.DEFAULT_MODEL
    try:
        resolver.resolve(ref, settings.server_specs())
    except GlmtuiError as error:
        yield Finding("warn", "model", error.message, error.hint)
    else:
        yield Finding("ok", "model", f"{shown_name(ref)} is the one that opens")


def _config(
    settings: Settings, problems: Sequence[ConfigError], environ: Mapping[str, str]
) -> Iterator[Finding]:
    path = config.config_file()
    yield Finding("ok", "settings", f"{path}" if path.exists() else f"defaults; no {path}")
    for problem in problems:
        yield Finding("warn", "settings", problem.message, problem.hint)
    for name, server in settings.servers.items():
        if server.key_env and not environ.get(server.key_env):
            what = f"{name}: the environment variable {server.key_env} is not set"
            yield Finding("warn", "server", what, f"export {server.key_env} with its API key in it")
        else:
            yield Finding("ok", "server", f"{name} at {shown_address(server.url)} (not called)")
