"""Getting a model from the Hugging Face hub or a mirror of it, into the hub's own cache.

Only what is needed comes: config, tokenizer, and the weights once. Of the repository's Python
nothing comes but one file of ChatGLM's, as text that is never run (`known.CPM_FILE`). HF_HOME,
HF_TOKEN and HF_ENDPOINT hold as in `huggingface_hub`, and other programs find the files too, but
it is not asked to place them: what the hub says is checked by `hub_api`, the bytes are `fetch`'s,
and `hub_cache` puts them where they belong.
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
KEPT_FREE = 64 << 20  # room to leave on the disk


def pull_from_hub(repo: str, endpoint: str | None, job: Job) -> Path:
    """Brings a repository's model into the hub's cache and returns its folder there.

    Args:
        endpoint: address of the hub; None takes HF_ENDPOINT, and without it huggingface.co.

    Raises:
        DownloadError: no such repository, no access, no network, no room, or damaged files.
        UnsupportedModel: it is of no family of ours, said before its weights are fetched.
        PullCancelled.
    """
    from huggingface_hub import constants, get_token, try_to_load_from_cache

    if not REPOSITORY_NAME.fullmatch(repo) or "--" in repo or ".." in repo or len(repo) > 96:
        raise DownloadError(_("{repo!r} is no name of a repository.").format(repo=repo))
    # huggingface_hub reads HF_ENDPOINT when it is imported, which may have been long ago
    endpoint = endpoint or os.environ.get("HF_ENDPOINT") or HUB
    host = redact_url(endpoint).partition("://")[2]
    job.report(_("asking {host} for {model}").format(host=host, model=repo))
    try:
        if constants.HF_HUB_OFFLINE:
            raise _offline(repo)
        hub = Hub.at(endpoint, get_token())
        told = hub.repository(repo, job)
    except DownloadError as error:
        job.raise_if_cancelled()
        cached = try_to_load_from_cache(repo, "config.json")
        if not isinstance(cached, str):
            raise
        job.report(error.message + " " + _("Taking the copy that is here already."))
        return Path(cached).parent  # whether it is whole, the caller looks
    chosen = choose_files(repo, told.files, hub.base)
    caches = Path(constants.HF_HUB_CACHE)
    cache = HubCache.of(caches, repo, told.revision)
    with convert_disk_errors(caches):
        missing = [file for file in chosen if not cache.has(file.etag, file.size)]
        require_space(caches, sum(file.size for file in missing) + KEPT_FREE, repo)
        cache.make_folders()
        for n, file in enumerate(chosen, 1):
            what = _("downloading {name} ({n} of {count})").format(
                name=file.name, n=n, count=len(chosen)
            )
            if not cache.has(file.etag, file.size):
                url = hub.file_url(repo, told.revision, file.name)
                fetch(
                    replace(file, url=url, hub=hub.base),
                    cache.blob(file.etag),
                    hub.private,
                    job,
                    what,
                )
            job.report(what, file.size, file.size)
            cache.place(file.name, file.etag)
            if file.name == "config.json":
                detect_family(read_config(cache.snapshot), cache.snapshot)
        cache.set_main()
    return cache.snapshot


def _offline(repo: str) -> DownloadError:
    return DownloadError(
        _("{repo} is not whole on this machine, and HF_HUB_OFFLINE forbids to ask the hub.").format(
            repo=repo
        ),
        _("Unset HF_HUB_OFFLINE (and TRANSFORMERS_OFFLINE)."),
    )
