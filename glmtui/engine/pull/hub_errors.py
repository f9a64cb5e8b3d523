"""Errors of requests to a hub, as messages for the user."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import httpx

from glmtui.errors import DownloadError
from glmtui.language import _
from glmtui.net.addresses import parse_http_url, redact_url
from glmtui.net.http_client import (
    AbortHandle,
    RedirectRefused,
    UnusableCertificates,
    UnusableProxy,
    explain_environment_error,
    http_client,
    is_same_service,
)
from glmtui.sanitize import sanitize_line


@contextlib.contextmanager
def open_client(abort_handle: AbortHandle) -> Iterator[httpx.Client]:
    """An HTTP client. Raises DownloadError in the block for an unusable proxy or certificates."""
    try:
        with http_client(abort_handle) as client:
            yield client
    except (UnusableProxy, UnusableCertificates) as error:
        raise DownloadError(*explain_environment_error(error)) from error


def hub_error(hub: str, reason: str) -> DownloadError:
    """The error for a hub that does not answer, or answers with something else."""
    return DownloadError(
        _("{endpoint} is unreachable or not a hub ({error}).").format(
            endpoint=redact_url(hub), error=reason
        ),
        _(
            "Check the network and proxy (HTTPS_PROXY), or set a mirror: hub.endpoint or "
            "HF_ENDPOINT."
        ),
    )


def redirected_base(target: str, url: str, hub: str) -> str:
    """The redacted address that a hub has moved to: `target` without the path of `url` on the hub.

    Returns all of `target` if it does not end with that path.
    """
    path = url.partition("?")[0].removeprefix(hub)
    return redact_url(target).removesuffix(path)


def redirect_error(error: RedirectRefused, url: str, hub: str) -> DownloadError:
    """The error for a redirect of a request to `url` that is not followed."""
    address = redirected_base(error.target, url, hub)
    return DownloadError(
        _("{hub} redirects to {address}, which is not followed: {reason}.").format(
            hub=redact_url(hub or url), address=address, reason=error
        ),
        _("If you trust that address, set hub.endpoint or HF_ENDPOINT to it.")
        if parse_http_url(address)
        else "",
    )


def response_error(response: httpx.Response, what: str, url: str, hub: str) -> DownloadError:
    """The error for the status of a response to a request to `url`, maybe after redirects.

    Args:
        what: the requested file or repository.
        hub: the address that `url` begins with.
    """
    status, target = response.status_code, str(response.url)
    if is_same_service(httpx.URL(url), response.url):
        return status_error(status, what, url)
    if status not in (401, 403):
        return status_error(status, what, target)
    address = redirected_base(target, url, hub)
    has_moved = address != redact_url(target)
    return DownloadError(
        _("{hub} redirects to {address}, which refuses access to {what} (HTTP {status}).").format(
            hub=redact_url(hub or url), address=address, what=what, status=status
        ),
        _(
            "The token is sent to hub.endpoint only. Set hub.endpoint or HF_ENDPOINT to {address}."
        ).format(address=address)
        if has_moved
        else _("Try again later, or set a mirror with hub.endpoint or HF_ENDPOINT."),
    )


def status_error(status: int, what: str, url: str) -> DownloadError:
    """The error for an HTTP status of the host in `url`.

    Args:
        what: the requested file or repository.
    """
    parts = parse_http_url(url)
    host = sanitize_line(parts.hostname or "") if parts else redact_url(url)
    if status == 401:
        return DownloadError(
            _("{host} requires a login for {what}: it is private, gated or does not exist.").format(
                host=host, what=what
            ),
            _(
                "Check the name. If you have access, set HF_TOKEN to a token from its settings "
                "page."
            ),
        )
    if status == 403:
        return DownloadError(
            _("{host} refuses access to {what}.").format(host=host, what=what),
            _(
                "Accept the terms on the model's page at {host} and set HF_TOKEN to your token."
            ).format(host=host),
        )
    if status == 404:
        return DownloadError(
            _("There is no {what} on {host}.").format(what=what, host=host),
            _("Check the name (ORGANISATION/NAME), or set another hub with hub.endpoint."),
        )
    if status == 429:
        return DownloadError(
            _("{host} limits the rate of requests.").format(host=host),
            _("Try again in a few minutes."),
        )
    return DownloadError(
        _("{host} failed (HTTP {status}).").format(host=host, status=status),
        _("Try again later, or set a mirror with hub.endpoint or HF_ENDPOINT."),
    )
