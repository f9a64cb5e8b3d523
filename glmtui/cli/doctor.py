"""``glmtui doctor``: what works on this machine, what does not, and what to do about it.

Looks, and changes nothing. torch is only ever imported in a child process, so that a broken
driver cannot take this one down. What is found becomes a `CheckResult`; printing is the caller's.
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
from glmtui.engine.catalog.model_folder import inspect_folder
from glmtui.engine.catalog.registry import DEFAULT_MODEL
from glmtui.engine.hardware.machine import Snapshot, snapshot
from glmtui.engine.nn.native.build import NO_COMPILER, BuildResult, build_kernels
from glmtui.errors import ConfigError, GlmtuiError
from glmtui.net.addresses import redact_if_url, redact_url
from glmtui.system import paths
from glmtui.system.programs import SAFE_FOLDER
from glmtui.system.terminfo import can_move_cursor

PROBE_SECONDS = 120
PROBE = """\
import json, sys, torch
cuda = torch.cuda
found = {"cuda": torch.version.cuda, "usable": cuda.is_available(), "missing": {}}
if cuda.is_available():
    sys.path.append(sys.argv[1])
    from glmtui.engine.nn.linear.gpu_support import unavailable_reasons
    for capability in {cuda.get_device_capability(i) for i in range(cuda.device_count())}:
        found["missing"]["%d.%d" % capability] = unavailable_reasons(capability)
print(json.dumps(found))
"""
LOW_SPACE = 2e9  # bytes; less is not enough for any model but the smallest


@dataclass(frozen=True, slots=True)
class CheckResult:
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


def run_checks(
    settings: Settings, problems: Sequence[ConfigError], environ: Mapping[str, str] = os.environ
) -> Iterator[CheckResult]:
    """Everything worth looking at, as it is found; asking CUDA can take seconds."""
    yield CheckResult("ok", "Python", f"{platform.python_version()} at {sys.executable}")
    yield CheckResult("ok", "glmtui", f"{__version__} at {Path(__file__).parents[1]}")
    yield from _torch_and_gpus(snapshot())
    yield _cpu()
    yield from _terminal(environ)
    yield from _folders()
    yield from _models(settings)
    yield from _config(settings, problems, environ)


# ---- the machine


def _torch_and_gpus(machine: Snapshot) -> Iterator[CheckResult]:
    for gpu in machine.gpus:
        yield CheckResult("ok", "GPU", f"{gpu.name}, {_gb(gpu.free)} of {_gb(gpu.total)} GB free")
    if not machine.gpus:
        yield CheckResult("ok", "GPU", "no NVIDIA GPU found; models run on the CPU")
    memory = machine.memory
    yield CheckResult(
        "ok", "memory", f"{_gb(memory.available)} of {_gb(memory.total)} GB available to the CPU"
    )
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        yield CheckResult(
            "fail",
            "torch",
            "not installed; only servers can be chatted with",
            "Install it into the same environment: pip install torch",
        )
        return
    if not machine.gpus:
        yield CheckResult("ok", "torch", version)
    elif version.endswith("+cpu"):
        yield CheckResult(
            "warn",
            "torch",
            f"{version} is built without CUDA, so the GPU is not used",
            "Install a CUDA build of the same version from the torch website.",
        )
    else:
        yield from probe_torch(version)


def probe_torch(version: str) -> Iterator[CheckResult]:
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
        yield CheckResult("fail", "torch", f"{version}: CUDA gave no answer in two minutes", advice)
        return
    if child.returncode:
        last = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
        yield CheckResult("fail", "torch", f"{version} cannot be imported: {last}", advice)
        return
    try:
        found = json.loads(child.stdout)
    except ValueError:
        yield CheckResult(
            "fail", "torch", f"{version} gave a strange answer: {child.stdout}", advice
        )
        return
    if not found["usable"]:
        yield CheckResult("warn", "torch", f"{version} cannot use the GPU", advice)
        return
    yield CheckResult("ok", "torch", f"{version} with CUDA {found['cuda']}")
    for capability, missing in sorted(found["missing"].items()):
        yield from gpu_kernel_checks(capability, missing)


def gpu_kernel_checks(capability: str, missing: Mapping[str, str]) -> Iterator[CheckResult]:
    """What multiplies with int8 and int4 on GPUs of a compute capability.

    Args:
        missing: see `glmtui.engine.nn.linear.gpu_support.unavailable_reasons`.
    """
    reasons = dict(missing)
    optional = reasons.pop("cpm_kernels")
    tried = [name for name, reason in reasons.items() if not reason]
    yield CheckResult(
        "ok",
        "kernels",
        f"compute capability {capability}: for packed weights the fastest of "
        f"{' and '.join([*tried, 'unpacking'])}, tried as a model is loaded",
    )
    for name, reason in reasons.items():
        if reason:
            advice = "int8 and int4 are slower without it." if name == "triton" else ""
            yield CheckResult("warn" if advice else "ok", "kernels", f"no {name}: {reason}", advice)
    yield CheckResult(
        "ok", "kernels", f"cpm_kernels: {optional or 'can be asked for (quant.kernel)'}"
    )


def _cpu() -> CheckResult:
    try:
        return cpu_kernel_check(build_kernels())  # which compiles them, if need be
    except ConfigError as error:
        return CheckResult("fail", "CPU", error.message, error.hint)


def cpu_kernel_check(kernels: BuildResult) -> CheckResult:
    """What computes on the CPU."""
    if kernels.library is not None:
        return CheckResult("ok", "CPU", f"compiled kernels for {kernels.isa}")
    said = f"no compiled kernels, torch's are slower: {kernels.problem}"
    if kernels.problem != NO_COMPILER:
        return CheckResult("ok", "CPU", said)
    return CheckResult("warn", "CPU", said, "Install a C compiler, such as with: apt install gcc")


def _gb(nbytes: int | None) -> str:
    return "n/a" if nbytes is None else f"{nbytes / 1e9:.1f}"


# ---- the terminal


def _terminal(environ: Mapping[str, str]) -> Iterator[CheckResult]:
    term = environ.get("TERM", "")
    if not sys.stdout.isatty():
        yield CheckResult("ok", "terminal", "not looked at, as stdout is not one")
    elif not can_move_cursor(environ):
        yield CheckResult(
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
        yield CheckResult("warn" if small else "ok", "terminal", ", ".join(where), advice)
    encoding = sys.stdout.encoding
    if encoding.lower().replace("-", "") == "utf8":
        yield CheckResult("ok", "encoding", encoding)
    else:
        yield CheckResult(
            "warn",
            "encoding",
            f"{encoding}; characters that it lacks are shown as ?",
            "export LC_ALL=C.UTF-8",
        )


# ---- folders


def _folders() -> Iterator[CheckResult]:
    yield _folder("data", paths.data_dir(), "GLMTUI_DATA_DIR")
    yield _folder("models", resolver.models_dir(), "GLMTUI_CACHE_DIR", needed=LOW_SPACE)
    yield _folder("config", paths.config_dir(), "GLMTUI_CONFIG_DIR")
    yield _folder("logs", paths.state_dir(), "GLMTUI_STATE_DIR")


def _folder(subject: str, folder: Path, variable: str, needed: float = 0) -> CheckResult:
    """Whether there is a folder, or could be, that takes files."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "cannot be written" if there.is_dir() else "is not a folder"
        return CheckResult(
            "fail", subject, f"{there} {reason}", f"Change that, or set {variable} to another one."
        )
    free = shutil.disk_usage(there).free
    what = f"{folder}, {_gb(free)} GB free"
    if there != folder:
        what += " (made when it is needed)"
    if free < needed:
        advice = f"Most models need more: set {variable} to a larger disk."
        return CheckResult("warn", subject, what, advice)
    return CheckResult("ok", subject, what)


# ---- models and settings


def _models(settings: Settings) -> Iterator[CheckResult]:
    for note in sorted(resolver.models_dir().glob("*/manifest.json")):
        try:
            info = inspect_folder(note.parent)
        except (GlmtuiError, OSError) as error:
            what = error.message if isinstance(error, GlmtuiError) else f"{note.parent}: {error}"
            yield CheckResult("fail", "model", what, f"Fetch it again, or remove {note.parent}.")
        else:
            never = f"; its own code is never run: {', '.join(info.code)}" if info.code else ""
            what = f"{info.name}, {_gb(info.nbytes)} GB, {info.stored}{never}"
            yield CheckResult("ok", "model", what)
    ref = settings.model or DEFAULT_MODEL
    try:
        resolver.resolve(ref, settings.server_specs())
    except GlmtuiError as error:
        yield CheckResult("warn", "model", error.message, error.hint)
    else:
        yield CheckResult("ok", "model", f"{redact_if_url(ref)} is the one that opens")


def _config(
    settings: Settings, problems: Sequence[ConfigError], environ: Mapping[str, str]
) -> Iterator[CheckResult]:
    path = config.config_file()
    yield CheckResult("ok", "settings", f"{path}" if path.exists() else f"defaults; no {path}")
    for problem in problems:
        yield CheckResult("warn", "settings", problem.message, problem.hint)
    for name, server in settings.servers.items():
        if server.key_env and not environ.get(server.key_env):
            what = f"{name}: the environment variable {server.key_env} is not set"
            yield CheckResult(
                "warn", "server", what, f"export {server.key_env} with its API key in it"
            )
        else:
            yield CheckResult("ok", "server", f"{name} at {redact_url(server.url)} (not called)")
