"""The HTTP client that everything in glmtui uses: bounded in bytes and time, ended from outside.

A server may be hostile or broken. Responses are never decompressed, redirects are followed one by
one under `next_address`'s rules, cookies and netrc are not used, and only proxies and certificates
come from the environment. Knows nothing of hubs or chats. Imports httpx: import it late.
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

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 15.0
MAX_REDIRECTS = 5
_RESET = struct.pack("ii", 1, 0)  # linger for 0 s, as of socket(7)
POLL_SECONDS = 0.05  # how late a cancelled or overdue request is ended

# Each is an httpx.HTTPError, so whoever handles those handles these.


class UnaskedEncoding(httpx.DecodingError):
    """The response is compressed, which was not asked for: a few bytes can become gigabytes."""


class ResponseTooLong(httpx.DecodingError):
    """The body is longer than any sound response to this request."""


class TimeUp(httpx.ReadTimeout):
    """The whole response did not come within its time, however many bytes came meanwhile."""


class BadRedirect(httpx.RemoteProtocolError):
    """A redirect that is not followed: too many, to another scheme, or into this machine.

    Attributes:
        there: the address it leads to; empty where there were too many.
    """

    def __init__(self, message: str, there: str = "") -> None:
        super().__init__(message)
        self.there = there


class UnusableProxy(httpx.ProxyError):
    """The environment names a proxy for this request that cannot be used; its text shows none."""


class UnusableCertificates(httpx.ConnectError):
    """The certificates that SSL_CERT_FILE or SSL_CERT_DIR name cannot be read."""


class EnvironmentProxies(httpx.BaseTransport):
    """Sends each request by the proxy that the environment names for its host (see `proxies`).

    httpx reads the same variables when a client is made, and raises for any entry that it cannot
    take, whether or not a request would use it.

    Args:
        settings: as of `urllib.request.getproxies`; empty for no proxy.
        certificates: whether they too come from the environment, where `verify` is True.
    """

    def __init__(
        self, settings: Mapping[str, str], verify: SSLContext | bool, *, certificates: bool
    ) -> None:
        self._settings = settings
        self._verify = verify
        self._certificates = certificates
        self._transports: dict[tuple[str | None, bool], httpx.HTTPTransport] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        proxy = proxy_for(url.scheme, url.host, url.port, self._settings)
        route = (proxy, url.scheme == "https")
        if route not in self._transports:
            self._transports[route] = self._made(*route)
        return self._transports[route].handle_request(request)

    def close(self) -> None:
        for transport in self._transports.values():
            transport.close()

    def _made(self, proxy: str | None, secure: bool) -> httpx.HTTPTransport:
        verify = self._verify
        if verify is True and secure:
            names = ("SSL_CERT_FILE", "SSL_CERT_DIR") if self._certificates else ()
            try:
                verify = _tls(tuple(os.environ.get(name) for name in names))
            except OSError as error:  # of which ssl.SSLError is one
                words = _("The certificates to trust cannot be read: {error}").format(error=error)
                raise UnusableCertificates(words) from error
        elif verify is True:
            verify = False  # of a plain http request: there is nothing to verify
        try:
            return httpx.HTTPTransport(verify=verify, trust_env=False, proxy=proxy)
        except ImportError as error:
            raise UnusableProxy(_("a SOCKS proxy needs the package socksio")) from error
        except (ValueError, httpx.InvalidURL):  # whose text may hold the proxy's password
            raise UnusableProxy(_("it is of no kind that can be used")) from None


class Line:
    """The sockets of a client's requests, which any thread can shut down at any moment."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._sockets: list[socket.socket] = []

    @property
    def ended(self) -> bool:
        """Whether `hang_up` was called."""
        return self._ended.is_set()

    def hang_up(self) -> None:
        """Ends the client's requests, and those it would send later, with an httpx.HTTPError.

        From any thread, any number of times. A look-up of a host name is not cut short.
        """
        self._ended.set()
        for sock in tuple(self._sockets):
            # Not the method of an SSLSocket, which is not made for a second thread.
            with contextlib.suppress(OSError):
                # Closed later, it is reset: a server that waits to write sees that at once.
                socket.socket.setsockopt(sock, socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def on_request(self, request: httpx.Request) -> None:
        """An httpx event hook: learns the request's socket as early as there is one."""
        self._check(request)
        request.extensions = {**request.extensions, "trace": self.on_trace}

    def on_trace(self, event: str, info: dict[str, Any]) -> None:
        """httpcore's trace extension."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            sock = info["return_value"].get_extra_info("socket")
            self._sockets = [s for s in self._sockets if s.fileno() >= 0] + [sock]
            if self.ended:
                self.hang_up()

    def _check(self, request: httpx.Request) -> None:
        if self.ended:
            raise httpx.ReadError("the request was ended", request=request)


def http_client(
    line: Line | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    auth: tuple[str, str] | None = None,
    silence: float = SILENCE_SECONDS,
    proxies: bool = True,
    verify: SSLContext | bool = True,
) -> httpx.Client:
    """A client for requests to one server; to be closed.

    Args:
        line: ends its requests.
        headers: sent with each request, to whatever host it goes.
        silence: seconds to wait for the next bytes of a response.
        proxies: whether proxies and certificates are taken from the environment.

    A proxy that cannot be used is an UnusableProxy of the requests that would take it.
    """
    ours = {
        "Accept": "*/*",
        "Accept-Encoding": "identity",  # `refuse_encodings` holds the server to it
        "User-Agent": f"glmtui/{__version__}",
    }
    return httpx.Client(
        auth=auth,
        headers={**ours, **(headers or {})},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        timeout=httpx.Timeout(silence, connect=CONNECT_SECONDS),
        follow_redirects=False,
        trust_env=False,
        transport=EnvironmentProxies(getproxies() if proxies else {}, verify, certificates=proxies),
        event_hooks={
            "request": [] if line is None else [line.on_request],
            "response": [refuse_encodings],
        },
    )


@lru_cache(maxsize=4)
def _tls(named: tuple[str | None, ...]) -> SSLContext:
    """The certificates to trust, which take 0.1 s to read; `named` is what the environment says."""
    return httpx.create_ssl_context(trust_env=bool(named))


def refuse_encodings(response: httpx.Response) -> None:
    """An httpx event hook, called before a byte of the body is read. Raises UnaskedEncoding."""
    encodings = response.headers.get_list("content-encoding", split_commas=True)
    if any(encoding.strip().lower() not in ("", "identity") for encoding in encodings):
        raise UnaskedEncoding(
            "the response is compressed, which was not asked for", request=response.request
        )


def read_whole(response: httpx.Response, limit: int) -> bytes:
    """The body of a response. Raises ResponseTooLong for more than `limit` bytes."""
    body = bytearray()
    for piece in response.iter_raw():
        body += piece
        if len(body) > limit:
            raise ResponseTooLong(
                f"the response is longer than {limit:,} bytes", request=response.request
            )
    return bytes(body)


@contextlib.contextmanager
def ending(
    line: Line, cancelled: Callable[[], bool] = lambda: False, seconds: float | None = None
) -> Iterator[None]:
    """Meanwhile `line` is hung up once `cancelled()` is true, or after `seconds` in all.

    Raises TimeUp when the time was up, and httpx.ReadError when it was cancelled: also where the
    request seems to have come to its end, for a socket that is shut down looks like a body that
    is whole, if the server did not say how long it is.
    """
    done, late = threading.Event(), threading.Event()
    deadline = None if seconds is None else time.monotonic() + seconds

    def watch() -> None:
        while not done.wait(POLL_SECONDS):
            if deadline is not None and time.monotonic() > deadline:
                late.set()
            if late.is_set() or cancelled():
                line.hang_up()

    watcher = threading.Thread(target=watch, name="http-watch", daemon=True)
    watcher.start()
    try:
        yield
        if line.ended:
            raise httpx.ReadError("the request was ended")
    except httpx.HTTPError as error:
        if late.is_set():
            raise TimeUp(f"no whole response within {seconds:.0f} s") from error
        raise
    finally:
        done.set()
        watcher.join()  # `cancelled` may look at what the caller closes next


@contextlib.contextmanager
def getting(
    client: httpx.Client,
    url: str,
    headers: Mapping[str, str] | None = None,
    private: Mapping[str, str] | None = None,
) -> Iterator[httpx.Response]:
    """The response to a GET, after its redirects; the body is not read yet.

    Args:
        private: headers for the host of `url` alone, such as an authorization (`is_same_service`).

    Raises httpx.HTTPError (BadRedirect among them), httpx.InvalidURL.
    """
    address = first = httpx.URL(url)
    for _hop in range(MAX_REDIRECTS + 1):
        own = private if private and is_same_service(first, address) else {}
        with client.stream("GET", address, headers={**(headers or {}), **own}) as response:
            following = response.next_request
            if following is None:
                yield response
                return
            address = next_address(address, following.url)
    raise BadRedirect(f"more than {MAX_REDIRECTS} redirects")


def next_address(here: httpx.URL, there: httpx.URL) -> httpx.URL:
    """`there`, if a redirect from `here` may lead there; without user and password.

    Raises BadRedirect for a step from https to http, another scheme, or from another host to a
    service of this machine or of its network link (loopback and link-local addresses).
    """
    if there.scheme not in ("http", "https") or not there.host:
        raise BadRedirect(_("it is no http address"), str(there))
    if here.scheme == "https" and there.scheme == "http":
        raise BadRedirect(_("it leads from https to http"), str(there))
    if is_local_service(there.host) and not is_local_service(here.host):
        raise BadRedirect(_("it leads into this machine"), str(there))
    return there.copy_with(username=None, password=None, fragment=None)


def is_same_service(asked: httpx.URL, there: httpx.URL) -> bool:
    """Whether `there` may have what is private to `asked`: the same origin, or its https.

    The latter at the usual ports alone: at others, somebody else's program may listen.
    """
    if asked.host != there.host:
        return False
    here, other = _scheme_and_port(asked), _scheme_and_port(there)
    return here == other or (here, other) == (("http", 80), ("https", 443))


def _scheme_and_port(url: httpx.URL) -> tuple[str, int | None]:
    return url.scheme, url.port or {"http": 80, "https": 443}.get(url.scheme)
