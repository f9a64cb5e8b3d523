"""Getting a model from the Hugging Face hub or a mirror of it, into the hub's own cache.

Only what is needed comes: config, tokenizer, and the weights once. Of the repository's Python
nothing comes but one file of ChatGLM's, as text that is never run (`known.CPM_FILE`). Finding and
storing is `huggingface_hub`'s business, so HF_HOME, HF_TOKEN and HF_ENDPOINT hold and other
programs find the files too; the bytes are `fetch`'s.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from glmtui.engine.families import family_of
from glmtui.engine.folder import read_config
from glmtui.engine.known import CPM_FILE, MAX_CPM_BYTES
from glmtui.engine.pull.fetch import RemoteFile, fetch, refused
from glmtui.engine.pull.staging import Job, disk_errors, need_room
from glmtui.errors import DownloadError, UnsupportedModel
from glmtui.language import _

T = TypeVar("T")

HUB = "https://huggingface.co"
REPO = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
SIDE_FILES = re.compile(r"[^/]+\.(json|model|jinja)|(vocab|merges)\.txt")
SAFETENSORS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
CHATGLM = "tokenization_chatglm.py"  # what marks a repository as one of ChatGLM's
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # of git, or sha256
BIN = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")
KINDS = ((SAFETENSORS, ".safetensors.index.json"), (BIN, ".bin.index.json"))
KEPT_FREE = 64 << 20  # room to leave on the disk
API_SECONDS = 30.0


def pull_from_hub(repo: str, endpoint: str | None, job: Job) -> Path:
    """Brings a repository's model into the hub's cache and returns its folder there.

    Args:
        endpoint: address of the hub; None takes HF_ENDPOINT, and without it huggingface.co.

    Raises:
        DownloadError: no such repository, no access, no network, no room, or damaged files.
        UnsupportedModel: it is of no family of ours, said before its weights are fetched.
        PullCancelled.
    """
    import huggingface_hub as hub

    # it reads HF_ENDPOINT when it is imported, which may have been long ago
    endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
    host = endpoint.partition("://")[2]
    job.report(_("asking {host} for {model}").format(host=host, model=repo))
    try:
        ask = hub.HfApi(endpoint=endpoint).model_info
        info = _asked(partial(ask, repo, files_metadata=True, timeout=API_SECONDS), repo, endpoint)
    except DownloadError as error:
        cached = hub.try_to_load_from_cache(repo, "config.json")
        if not isinstance(cached, str):
            raise
        job.report(error.message + " " + _("Taking the copy that is here already."))
        return Path(cached).parent  # whether it is whole, the caller looks
    revision = _digest(info.sha, endpoint)
    files = [
        RemoteFile(
            name=entry.rfilename,
            url=hub.hf_hub_url(repo, entry.rfilename, revision=revision, endpoint=endpoint),
            size=entry.size or 0,
            sha256=entry.lfs.sha256 if entry.lfs else None,
            git_sha1=None if entry.lfs else entry.blob_id,
        )
        for entry in info.siblings or ()
    ]
    chosen = choose(repo, files)
    for file in chosen:
        _digest(file.etag, endpoint)
    cache = Path(hub.constants.HF_HUB_CACHE)
    blobs = cache / f"models--{repo.replace('/', '--')}" / "blobs"
    token = hub.get_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    folder = cache
    with disk_errors(cache):
        missing = [file for file in chosen if not (blobs / file.etag).exists()]
        need_room(cache, sum(file.size for file in missing) + KEPT_FREE, repo)
        blobs.mkdir(parents=True, exist_ok=True)
        for n, file in enumerate(chosen, 1):
            what = _("downloading {name} ({n} of {count})").format(
                name=file.name, n=n, count=len(chosen)
            )
            if not (blobs / file.etag).exists():
                fetch(file, blobs / file.etag, headers, job, what)
            job.report(what, file.size, file.size)
            # finds the blob there, and gives it its name in the cache
            place = partial(hub.hf_hub_download, revision=revision, endpoint=endpoint)
            folder = Path(_asked(partial(place, repo, file.name), repo, endpoint)).parent
            if file.name == "config.json":
                family_of(read_config(folder), folder)
        refs = blobs.with_name("refs")  # what other programs, and a later run, know as "main"
        refs.mkdir(exist_ok=True)
        (refs / "main").write_text(revision)
    return folder


def choose(repo: str, files: Sequence[RemoteFile]) -> list[RemoteFile]:
    """The files of a repository that a model needs, config.json first and weights last.

    Safetensors are taken rather than .bin files where there are both.

    Raises:
        UnsupportedModel: no config.json, or no weights of a kind we read.
    """
    of_kind = [([f for f in files if pattern.fullmatch(f.name)], end) for pattern, end in KINDS]
    weights, index_end = next((kind for kind in of_kind if kind[0]), ([], ""))
    names = {file.name for file in files}
    if not weights or "config.json" not in names:
        lacks = "config.json" if weights else _("safetensors or pytorch_model.bin")
        hint = ""
        if any(name.endswith(".gguf") for name in names):
            hint = _("Download one of its GGUF files and run: glmtui pull FILE.gguf")
        raise UnsupportedModel(
            _("{repo} is no model that glmtui can run: it has no {lacks}.").format(
                repo=repo, lacks=lacks
            ),
            hint,
        )
    side = [
        file
        for file in files
        if SIDE_FILES.fullmatch(file.name)
        and (not file.name.endswith(".index.json") or file.name.endswith(index_end))
    ]
    if CHATGLM in names:
        side += [f for f in files if f.name == CPM_FILE and f.size <= MAX_CPM_BYTES]
    return sorted(side, key=lambda file: file.name != "config.json") + weights


def _digest(said: str | None, endpoint: str) -> str:
    """What a hub says is the digest of something, and names a file. Raises DownloadError."""
    if said is None or not DIGEST.fullmatch(said):
        raise DownloadError(
            _("{endpoint} gives no checksum for what it has, but {said!r}.").format(
                endpoint=endpoint, said=str(said)[:40]
            ),
            _("It is no sound mirror: set another with hub.endpoint or HF_ENDPOINT."),
        )
    return said


def _asked(question: Callable[[], T], repo: str, endpoint: str) -> T:
    """What huggingface_hub answers, with its errors in our words."""
    from huggingface_hub import errors

    try:
        return question()
    except errors.OfflineModeIsEnabled as error:
        raise DownloadError(
            _(
                "{repo} is not whole on this machine, and HF_HUB_OFFLINE forbids to ask the hub."
            ).format(repo=repo),
            _("Unset HF_HUB_OFFLINE (and TRANSFORMERS_OFFLINE)."),
        ) from error
    except errors.HfHubHTTPError as error:
        raise refused(error.response.status_code, repo, endpoint) from error
    except errors.HFValidationError as error:
        raise DownloadError(_("{repo!r} is no name of a repository.").format(repo=repo)) from error
    except (errors.LocalEntryNotFoundError, errors.FileMetadataError) as error:
        raise _unreachable(endpoint, error) from error
    except OSError:
        raise  # the disk's, for `disk_errors`
    except Exception as error:  # of whichever HTTP library it uses: httpx (1.x), httpx2 (2.x)
        raise _unreachable(endpoint, error) from error


def _unreachable(endpoint: str, error: Exception) -> DownloadError:
    return DownloadError(
        _("{endpoint} cannot be reached, or is no hub ({error}).").format(
            endpoint=endpoint, error=type(error).__name__
        ),
        _(
            "Check the network and proxy (HTTPS_PROXY), or set a mirror: hub.endpoint or "
            "HF_ENDPOINT."
        ),
    )
