"""The HTTP client that all of glmtui uses, with limits on bytes and time.

A server may be hostile or broken: responses are never decompressed, redirects are checked one by
one (`check_redirect`), cookies and netrc are ignored, and only proxies and certificates come from
the environment. Importing this module imports httpx.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ssl import SSLContext
from typing import Any
from urllib.request import getproxies

import httpx

from glmtui import __version__
from glmtui.language import _
from glmtui.net.addresses import is_local_service
from glmtui.net.proxies import proxy_for

CONNECT_TIMEOUT_SECONDS = 10.0
READ_TIMEOUT_SECONDS = 15.0
MAX_REDIRECTS = 5
POLL_SECONDS = 0.05  # interval between checks for cancellation and deadline
_LINGER_ZERO = struct.pack("ii", 1, 0)  # struct linger of socket(7): enabled, 0 s


# All errors below are httpx.HTTPErrors, so that code which handles those handles these.


class UnexpectedEncoding(httpx.DecodingError):
    """The response is compressed although the request forbids it."""


class ResponseTooLong(httpx.DecodingError):
    """The body is longer than the limit."""


class DeadlineExceeded(httpx.ReadTimeout):
    """The whole response did not arrive within its deadline."""


class RedirectRefused(httpx.RemoteProtocolError):
    """A redirect that is not followed: too many, to another scheme, or to this machine.

    Attributes:
        target: URL of the redirect; empty after too many redirects.
    """

    def __init__(self, message: str, target: str = "") -> None:
        super().__init__(message)
        self.target = target


class UnusableProxy(httpx.ProxyError):
    """The proxy that the environment sets for this request is unusable. The text has no URL."""


class UnusableCertificates(httpx.ConnectError):
    """The certificates in SSL_CERT_FILE or SSL_CERT_DIR cannot be read."""


class EnvironmentProxyTransport(httpx.BaseTransport):
    """Sends each request through the proxy that the environment sets for its host.

    httpx reads the same variables, but when a client is created, and raises for any entry that it
    does not understand, even when no request would use it.

    Args:
        settings: result of `urllib.request.getproxies`; empty for no proxy.
        verify: as for `httpx.Client`.
        env_certificates: if `verify` is True, read SSL_CERT_FILE and SSL_CERT_DIR.
    """

    def __init__(
        self, settings: Mapping[str, str], verify: SSLContext | bool, *, env_certificates: bool
    ) -> None:
        self._settings = settings
        self._verify = verify
        self._env_certificates = env_certificates
        self._transports: dict[tuple[str | None, bool], httpx.HTTPTransport] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        proxy = proxy_for(url.scheme, url.host, url.port, self._settings)
        route = (proxy, url.scheme == "https")
        if route not in self._transports:
            self._transports[route] = self._make_transport(*route)
        return self._transports[route].handle_request(request)

    def close(self) -> None:
        for transport in self._transports.values():
            transport.close()

    def _make_transport(self, proxy: str | None, secure: bool) -> httpx.HTTPTransport:
        verify = self._verify
        if verify is True and secure:
            names = ("SSL_CERT_FILE", "SSL_CERT_DIR") if self._env_certificates else ()
            try:
                verify = _tls_context(tuple(os.environ.get(name) for name in names))
            except OSError as error:  # includes ssl.SSLError
                message = _("Could not read the trusted certificates: {error}")
                raise UnusableCertificates(message.format(error=error)) from error
        elif verify is True:
            verify = False  # plain http: do not load certificates
        try:
            return httpx.HTTPTransport(verify=verify, trust_env=False, proxy=proxy)
        except ImportError as error:
            raise UnusableProxy(_("SOCKS proxies need the package socksio")) from error
        except (ValueError, httpx.InvalidURL):  # their text may contain the proxy's password
            raise UnusableProxy(_("unsupported proxy type")) from None


class AbortHandle:
    """Aborts the requests of a client from another thread, by shutting down their sockets."""

    def __init__(self) -> None:
        self._aborted = threading.Event()
        self._sockets: list[socket.socket] = []

    @property
    def aborted(self) -> bool:
        return self._aborted.is_set()

    def abort(self) -> None:
        """Make the client's current and later requests fail with an httpx.HTTPError.

        Thread-safe and idempotent. A running DNS lookup is not interrupted.
        """
        self._aborted.set()
        for sock in tuple(self._sockets):
            # Call the methods of the plain socket: those of an SSLSocket are not thread-safe.
            with contextlib.suppress(OSError):
                # Closing then sends a reset, which a server that waits to write sees at once.
                socket.socket.setsockopt(sock, socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def on_request(self, request: httpx.Request) -> None:
        """httpx event hook: get the socket of the request as soon as it exists."""
        if self.aborted:
            raise httpx.ReadError("the request was aborted", request=request)
        request.extensions = {**request.extensions, "trace": self.on_trace}

    def on_trace(self, event: str, info: dict[str, Any]) -> None:
        """Receive events of httpcore's trace extension."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            sock = info["return_value"].get_extra_info("socket")
            self._sockets = [s for s in self._sockets if s.fileno() >= 0] + [sock]
            if self.aborted:
                self.abort()


def http_client(
    abort_handle: AbortHandle | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    auth: tuple[str, str] | None = None,
    read_timeout: float = READ_TIMEOUT_SECONDS,
    proxies: bool = True,
    verify: SSLContext | bool = True,
) -> httpx.Client:
    """Create a client; the caller closes it.

    Args:
        abort_handle: can abort its requests.
        auth: user name and password for HTTP basic authentication.
        headers: sent with each request, to any host.
        read_timeout: seconds to wait for the next bytes of a response.
        proxies: use proxies and certificates from the environment.

    Its requests raise UnusableProxy and UnusableCertificates if these settings are wrong.
    """
    default_headers = {
        "Accept": "*/*",
        "Accept-Encoding": "identity",  # enforced by `reject_encodings`
        "User-Agent": f"glmtui/{__version__}",
    }
    return httpx.Client(
        auth=auth,
        headers={**default_headers, **(headers or {})},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        timeout=httpx.Timeout(read_timeout, connect=CONNECT_TIMEOUT_SECONDS),
        follow_redirects=False,
        trust_env=False,
        transport=EnvironmentProxyTransport(
            getproxies() if proxies else {}, verify, env_certificates=proxies
        ),
        event_hooks={
            "request": [] if abort_handle is None else [abort_handle.on_request],
            "response": [reject_encodings],
        },
    )


@lru_cache(maxsize=4)
def _tls_context(env_values: tuple[str | None, ...]) -> SSLContext:
    """The trusted certificates. Reading them takes 0.1 s, so they are cached.

    Args:
        env_values: of SSL_CERT_FILE and SSL_CERT_DIR; empty to ignore the environment.
    """
    return httpx.create_ssl_context(trust_env=bool(env_values))


def reject_encodings(response: httpx.Response) -> None:
    """httpx event hook: raise UnexpectedEncoding before the body of a compressed response is read.

    A few compressed bytes could decompress to gigabytes.
    """
    encodings = response.headers.get_list("content-encoding", split_commas=True)
    if any(encoding.strip().lower() not in ("", "identity") for encoding in encodings):
        raise UnexpectedEncoding(
            "the response is compressed although the request forbids it", request=response.request
        )


def read_body(response: httpx.Response, limit: int) -> bytes:
    """Read the body of a response. Raises ResponseTooLong after more than `limit` bytes."""
    body = bytearray()
    for piece in response.iter_raw():
        body += piece
        if len(body) > limit:
            raise ResponseTooLong(
                f"the response is longer than {limit:,} bytes", request=response.request
            )
    return bytes(body)


@contextlib.contextmanager
def abort_when(
    abort_handle: AbortHandle,
    cancelled: Callable[[], bool] = lambda: False,
    seconds: float | None = None,
) -> Iterator[None]:
    """Abort requests in the block when `cancelled()` becomes true, or after `seconds` in total.

    Raises DeadlineExceeded after `seconds` and httpx.ReadError if cancelled. It raises even if the
    request seems complete: when the server does not send a length, a body that was cut off by the
    shutdown of its socket looks like a whole one.
    """
    done, late = threading.Event(), threading.Event()
    deadline = None if seconds is None else time.monotonic() + seconds

    def watch() -> None:
        while not done.wait(POLL_SECONDS):
            if deadline is not None and time.monotonic() > deadline:
                late.set()
            if late.is_set() or cancelled():
                abort_handle.abort()

    watcher = threading.Thread(target=watch, name="http-watch", daemon=True)
    watcher.start()
    try:
        yield
        if abort_handle.aborted:
            raise httpx.ReadError("the request was aborted")
    except httpx.HTTPError as error:
        if late.is_set():
            raise DeadlineExceeded(f"no complete response within {seconds:.0f} s") from error
        raise
    finally:
        done.set()
        watcher.join()  # `cancelled` may use something that the caller closes next


@contextlib.contextmanager
def stream_get(
    client: httpx.Client,
    url: str,
    headers: Mapping[str, str] | None = None,
    private_headers: Mapping[str, str] | None = None,
) -> Iterator[httpx.Response]:
    """Send a GET request, follow its redirects, and yield the response with its body unread.

    Args:
        private_headers: sent only to the service of `url` (`is_same_service`), such as an
            authorization.

    Raises httpx.HTTPError (including RedirectRefused) and httpx.InvalidURL.
    """
    address = first = httpx.URL(url)
    for _hop in range(MAX_REDIRECTS + 1):
        own = private_headers if private_headers and is_same_service(first, address) else {}
        with client.stream("GET", address, headers={**(headers or {}), **own}) as response:
            redirect = response.next_request
            if redirect is None:
                yield response
                return
            address = check_redirect(address, redirect.url)
    raise RedirectRefused(f"more than {MAX_REDIRECTS} redirects")


def check_redirect(source: httpx.URL, target: httpx.URL) -> httpx.URL:
    """`target` without user name, password and fragment, if a redirect may lead there.

    Raises RedirectRefused for a step from https to http, for another scheme, and for a step from
    another host to this machine or its network link (loopback and link-local addresses).
    """
    if target.scheme not in ("http", "https") or not target.host:
        raise RedirectRefused(_("it is not an http address"), str(target))
    if source.scheme == "https" and target.scheme == "http":
        raise RedirectRefused(_("it leads from https to http"), str(target))
    if is_local_service(target.host) and not is_local_service(source.host):
        raise RedirectRefused(_("it leads to this machine"), str(target))
    return target.copy_with(username=None, password=None, fragment=None)


def is_same_service(first: httpx.URL, second: httpx.URL) -> bool:
    """Whether `second` may receive the credentials for `first`: the same origin, or its https.

    An upgrade to https counts at the standard ports only: on other ports another user's program
    may listen.
    """
    if first.host != second.host:
        return False
    origins = _scheme_and_port(first), _scheme_and_port(second)
    return origins[0] == origins[1] or origins == (("http", 80), ("https", 443))


def _scheme_and_port(url: httpx.URL) -> tuple[str, int | None]:
    return url.scheme, url.port or {"http": 80, "https": 443}.get(url.scheme)
