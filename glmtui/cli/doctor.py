"""``glmtui doctor``: checks of the machine, the installation, the models and the settings.

The checks change nothing. torch is imported in a child process only, so that a broken driver cannot
crash this one.
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
from glmtui.engine.catalog.known_models import DEFAULT_MODEL
from glmtui.engine.catalog.model_folder import MANIFEST, inspect_folder
from glmtui.engine.hardware.machine import Snapshot, snapshot
from glmtui.engine.nn.native.build import NO_COMPILER, BuildResult, build_kernels
from glmtui.errors import ConfigError, GlmtuiError
from glmtui.net.addresses import redact_if_url, redact_url
from glmtui.system import paths
from glmtui.system.programs import SAFE_FOLDER
from glmtui.system.terminfo import can_move_cursor

PROBE_SECONDS = 120
# Run in the child process. Prints a JSON object: torch's CUDA version, whether it can use the GPUs,
# and for each compute capability the reasons why a kernel is missing ("" if it is available).
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
LOW_SPACE = 2e9  # bytes; less free space is enough only for the smallest model


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check.

    Attributes:
        level: "fail" means that glmtui or a part of it cannot work.
        advice: what to do; empty if there is nothing to do.
    """

    level: Literal["ok", "warn", "fail"]
    subject: str
    message: str
    advice: str = ""

    @property
    def text(self) -> str:
        """One line, and a second one with the advice."""
        advice = f"\n{'':18}{self.advice}" if self.advice else ""
        return f"{self.level:<6}{self.subject:<12}{self.message}{advice}"


def run_checks(
    settings: Settings, problems: Sequence[ConfigError], environ: Mapping[str, str] = os.environ
) -> Iterator[CheckResult]:
    """Runs all checks and yields their results one by one. Checking CUDA can take seconds."""
    yield CheckResult("ok", "Python", f"{platform.python_version()} at {sys.executable}")
    yield CheckResult("ok", "glmtui", f"{__version__} at {Path(__file__).parents[1]}")
    yield from _torch_and_gpus(snapshot())
    yield _cpu()
    yield from _terminal(environ)
    yield from _folders()
    yield from _models(settings)
    yield from _config(settings, problems, environ)


# ---- the machine


def _torch_and_gpus(snapshot: Snapshot) -> Iterator[CheckResult]:
    for gpu in snapshot.gpus:
        yield CheckResult("ok", "GPU", f"{gpu.name}, {_gb(gpu.free)} of {_gb(gpu.total)} GB free")
    if not snapshot.gpus:
        yield CheckResult("ok", "GPU", "no NVIDIA GPU; models run on the CPU")
    memory = snapshot.memory
    yield CheckResult(
        "ok", "memory", f"{_gb(memory.available)} of {_gb(memory.total)} GB available"
    )
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        yield CheckResult(
            "fail",
            "torch",
            "not installed; without it only servers can be used",
            "Install it in the same environment: pip install torch",
        )
        return
    if not snapshot.gpus:
        yield CheckResult("ok", "torch", version)
    elif version.endswith("+cpu"):
        yield CheckResult(
            "warn",
            "torch",
            f"{version} was built without CUDA and cannot use the GPU",
            "Install a CUDA build of the same version: https://pytorch.org/get-started/locally",
        )
    else:
        yield from probe_torch(version)


def probe_torch(version: str) -> Iterator[CheckResult]:
    """Checks in a child process whether torch can use the GPUs, and which kernels there are.

    Args:
        version: of the installed torch.
    """
    advice = "Check that `nvidia-smi` works; torch may need a newer driver."
    try:
        child = subprocess.run(
            [sys.executable, "-c", PROBE, str(Path(__file__).parents[2])],
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            cwd=SAFE_FOLDER,  # -c looks for modules in the working folder first
        )
    except subprocess.TimeoutExpired:
        yield CheckResult(
            "fail", "torch", f"{version}: CUDA did not respond within two minutes", advice
        )
        return
    if child.returncode:
        last = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
        yield CheckResult("fail", "torch", f"{version} cannot be imported: {last}", advice)
        return
    try:
        probe = json.loads(child.stdout)
    except ValueError:
        yield CheckResult(
            "fail", "torch", f"{version} printed unexpected output: {child.stdout}", advice
        )
        return
    if not probe["usable"]:
        yield CheckResult("warn", "torch", f"{version} cannot use the GPU", advice)
        return
    yield CheckResult("ok", "torch", f"{version} with CUDA {probe['cuda']}")
    for capability, missing in sorted(probe["missing"].items()):
        yield from gpu_kernel_checks(capability, missing)


def gpu_kernel_checks(capability: str, missing: Mapping[str, str]) -> Iterator[CheckResult]:
    """The kernels for int8 and int4 weights on GPUs with this compute capability.

    Args:
        missing: by kernel, why it is not available; see `gpu_support.unavailable_reasons`.
    """
    reasons = dict(missing)
    optional = reasons.pop("cpm_kernels")
    available = [name for name, reason in reasons.items() if not reason]
    yield CheckResult(
        "ok",
        "kernels",
        f"compute capability {capability}: int8 and int4 weights use the fastest of "
        f"{', '.join([*available, 'unpacking'])} (measured when a model is loaded)",
    )
    for name, reason in reasons.items():
        if reason:
            advice = "int8 and int4 are slower without it." if name == "triton" else ""
            yield CheckResult("warn" if advice else "ok", "kernels", f"no {name}: {reason}", advice)
    yield CheckResult("ok", "kernels", f"cpm_kernels: {optional or 'available (set quant.kernel)'}")


def _cpu() -> CheckResult:
    try:
        return cpu_kernel_check(build_kernels())  # compiles them if necessary
    except ConfigError as error:
        return CheckResult("fail", "CPU", error.message, error.hint)


def cpu_kernel_check(kernels: BuildResult) -> CheckResult:
    if kernels.library is not None:
        return CheckResult("ok", "CPU", f"compiled kernels for {kernels.isa}")
    message = f"no compiled kernels, and torch's are slower: {kernels.problem}"
    if kernels.problem != NO_COMPILER:
        return CheckResult("ok", "CPU", message)
    return CheckResult("warn", "CPU", message, "Install a C compiler, for example: apt install gcc")


def _gb(nbytes: int | None) -> str:
    return "n/a" if nbytes is None else f"{nbytes / 1e9:.1f}"


# ---- the terminal


def _terminal(environ: Mapping[str, str]) -> Iterator[CheckResult]:
    term = environ.get("TERM", "")
    if not sys.stdout.isatty():
        yield CheckResult("ok", "terminal", "not checked: stdout is not a terminal")
    elif not can_move_cursor(environ):
        yield CheckResult(
            "warn",
            "terminal",
            f"TERM is {term or 'not set'}: it cannot move the cursor, so the chat is line by line",
            "If the terminal supports it: export TERM=xterm-256color",
        )
    else:
        columns, lines = shutil.get_terminal_size()
        colours = environ.get("COLORTERM") or "at most 256 colours (COLORTERM is not set)"
        details = [f"TERM {term}", colours, f"{columns}x{lines}"]
        details += ["in tmux"] if environ.get("TMUX") else []
        details += ["over SSH"] if environ.get("SSH_CONNECTION") else []
        small = columns < 40 or lines < 10
        advice = "The app needs 40 columns and 10 lines." if small else ""
        yield CheckResult("warn" if small else "ok", "terminal", ", ".join(details), advice)
    encoding = sys.stdout.encoding
    if encoding.lower().replace("-", "") == "utf8":
        yield CheckResult("ok", "encoding", encoding)
    else:
        yield CheckResult(
            "warn",
            "encoding",
            f"{encoding}: characters that it lacks are shown as ?",
            "export LC_ALL=C.UTF-8",
        )


# ---- folders


def _folders() -> Iterator[CheckResult]:
    yield _folder("data", paths.data_dir(), "GLMTUI_DATA_DIR")
    yield _folder("models", resolver.models_dir(), "GLMTUI_CACHE_DIR", needed=LOW_SPACE)
    yield _folder("config", paths.config_dir(), "GLMTUI_CONFIG_DIR")
    yield _folder("logs", paths.state_dir(), "GLMTUI_STATE_DIR")


def _folder(subject: str, folder: Path, variable: str, needed: float = 0) -> CheckResult:
    """Checks that files can be created in a folder, or that the folder can be created.

    Args:
        needed: free space in bytes below which there is a warning.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        reason = "is not writable" if existing.is_dir() else "is not a folder"
        advice = f"Correct this, or set {variable} to another folder."
        return CheckResult("fail", subject, f"{existing} {reason}", advice)
    free = shutil.disk_usage(existing).free
    message = f"{folder}, {_gb(free)} GB free"
    if existing != folder:
        message += " (created when needed)"
    if free < needed:
        advice = f"Most models need more space: set {variable} to a folder on a larger disk."
        return CheckResult("warn", subject, message, advice)
    return CheckResult("ok", subject, message)


# ---- models and settings


def _models(settings: Settings) -> Iterator[CheckResult]:
    for manifest in sorted(resolver.models_dir().glob(f"*/{MANIFEST}")):
        folder = manifest.parent
        try:
            info = inspect_folder(folder)
        except (GlmtuiError, OSError) as error:
            message = error.message if isinstance(error, GlmtuiError) else f"{folder}: {error}"
            yield CheckResult("fail", "model", message, f"Pull it again, or remove {folder}.")
        else:
            code = f"; code in it, which is never run: {', '.join(info.code)}" if info.code else ""
            message = f"{info.name}, {_gb(info.nbytes)} GB, {info.stored}{code}"
            yield CheckResult("ok", "model", message)
    ref = settings.model or DEFAULT_MODEL
    try:
        resolver.resolve(ref, settings.server_specs())
    except GlmtuiError as error:
        yield CheckResult("warn", "model", error.message, error.hint)
    else:
        yield CheckResult("ok", "model", f"{redact_if_url(ref)} is loaded at start")


def _config(
    settings: Settings, problems: Sequence[ConfigError], environ: Mapping[str, str]
) -> Iterator[CheckResult]:
    path = config.config_file()
    yield CheckResult(
        "ok", "settings", f"{path}" if path.exists() else f"defaults ({path} does not exist)"
    )
    for problem in problems:
        yield CheckResult("warn", "settings", problem.message, problem.hint)
    for name, server in settings.servers.items():
        if server.key_env and not environ.get(server.key_env):
            message = f"{name}: the environment variable {server.key_env} is not set"
            advice = f"Set it to the API key: export {server.key_env}=..."
            yield CheckResult("warn", "server", message, advice)
        else:
            yield CheckResult(
                "ok", "server", f"{name} at {redact_url(server.url)} (connection not checked)"
            )
