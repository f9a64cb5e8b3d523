"""Downloads a model from the Hugging Face hub, or a mirror, into the cache of `huggingface_hub`.

Only the configuration, the tokenizer and one copy of the weights are downloaded, and no Python code
but one file of ChatGLM, which is parsed as text (`quants.CPM_FILE`). HF_HOME, HF_TOKEN and
HF_ENDPOINT are respected as in `huggingface_hub`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from glmtui.engine.catalog.families import detect_family
from glmtui.engine.catalog.model_folder import read_config
from glmtui.engine.pull.fetch import fetch
from glmtui.engine.pull.hub_api import REPOSITORY_NAME, Hub, choose_files
from glmtui.engine.pull.hub_cache import HubCache
from glmtui.engine.pull.staging import Job, convert_disk_errors, require_space
from glmtui.errors import DownloadError
from glmtui.language import _
from glmtui.net.addresses import redact_url

HUB = "https://huggingface.co"
RESERVED_BYTES = 64 << 20  # disk space to leave free


def pull_from_hub(repo: str, endpoint: str | None, job: Job) -> Path:
    """Download the model of a repository into the hub's cache and return its folder there.

    Args:
        endpoint: address of the hub; None for HF_ENDPOINT, else huggingface.co.

    Raises:
        DownloadError: no such repository, no access, no network, no disk space, or damaged files.
        UnsupportedModel: of no known family; raised before the weights are downloaded.
        PullCancelled.
    """
    from huggingface_hub import constants, get_token, try_to_load_from_cache

    if not REPOSITORY_NAME.fullmatch(repo) or "--" in repo or ".." in repo or len(repo) > 96:
        raise DownloadError(_("{repo!r} is not a repository name.").format(repo=repo))
    # huggingface_hub reads HF_ENDPOINT only when it is imported
    endpoint = endpoint or os.environ.get("HF_ENDPOINT") or HUB
    host = redact_url(endpoint).partition("://")[2]
    job.report(_("requesting {model} from {host}").format(host=host, model=repo))
    try:
        if constants.HF_HUB_OFFLINE:
            raise _offline_error(repo)
        hub = Hub.from_endpoint(endpoint, get_token())
        repository = hub.fetch_repository(repo, job)
    except DownloadError as error:
        job.raise_if_cancelled()
        cached = try_to_load_from_cache(repo, "config.json")
        if not isinstance(cached, str):
            raise
        job.report(error.message + " " + _("Using the local copy."))
        return Path(cached).parent  # the caller checks whether it is complete
    chosen = choose_files(repo, repository.files, hub.base)
    cache_folder = Path(constants.HF_HUB_CACHE)
    cache = HubCache.for_repository(cache_folder, repo, repository.revision)
    with convert_disk_errors(cache_folder):
        missing = [file for file in chosen if not cache.has(file.etag, file.size)]
        require_space(cache_folder, sum(file.size for file in missing) + RESERVED_BYTES, repo)
        cache.make_folders()
        for n, file in enumerate(chosen, 1):
            what = _("downloading {name} ({n} of {count})").format(
                name=file.name, n=n, count=len(chosen)
            )
            if not cache.has(file.etag, file.size):
                url = hub.file_url(repo, repository.revision, file.name)
                fetch(
                    replace(file, url=url, hub=hub.base),
                    cache.blob(file.etag),
                    hub.private_headers,
                    job,
                    what,
                )
            job.report(what, file.size, file.size)
            cache.link_file(file.name, file.etag)
            if file.name == "config.json":
                detect_family(read_config(cache.snapshot), cache.snapshot)
        cache.update_main_ref()
    return cache.snapshot


def _offline_error(repo: str) -> DownloadError:
    return DownloadError(
        _(
            "{repo} is incomplete on this machine, and HF_HUB_OFFLINE forbids downloading it."
        ).format(repo=repo),
        _("Unset HF_HUB_OFFLINE (and TRANSFORMERS_OFFLINE)."),
    )
