"""Where a server is and how it is called: address, key, proxies, TLS and time limits.

Knows what of an address may be shown. Knows nothing of what is said on the line.
"""

from __future__ import annotations

import functools
import ipaddress
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from glmtui.engine.model_info import ServerSpec
from glmtui.errors import ServerError
from glmtui.language import _
from glmtui.net.addresses import redact_url
from glmtui.sanitize import sanitize_line

if TYPE_CHECKING:
    import httpx

    from glmtui.net.http_client import AbortHandle


class Endpoint:
    """An OpenAI-compatible server that can be called.

    Attributes:
        shown: its address without user name, password and query.
        key: the API key, for masking; never to be shown.

    Raises ServerError for an address or a key that cannot be used.
    """

    def __init__(self, spec: ServerSpec) -> None:
        address = _Address.of(spec.url)
        self.shown = sanitize_line(address.base)
        self.key = spec.api_key.strip()
        self._address = address
        if not (self.key.isascii() and self.key.isprintable()):
            raise ServerError(
                _("The API key for {server} holds characters that cannot be sent.").format(
                    server=self.shown
                ),
                _("Look at the environment variable it comes from: a line end or quotes too many?"),
            )

    def url(self, path: str) -> str:
        """What to call for `path`, such as "/models"."""
        query = f"?{self._address.query}" if self._address.query else ""
        return f"{self._address.base}{path}{query}"

    def client(self, read_timeout: float, line: AbortHandle | None = None) -> httpx.Client:
        """A client for one call; to be closed. `read_timeout`: seconds to wait for the next bytes.

        Proxies are taken from the environment, except for a server on this machine. Redirects
        are not followed: a question and a key go where the user said and nowhere else.

        Args:
            line: ends the call from any thread.

        Raises ServerError where SSL_CERT_FILE names no certificates.
        """
        from glmtui.net.http_client import http_client

        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        return http_client(
            line,
            auth=self._address.login,
            headers=headers,
            read_timeout=read_timeout,
            proxies=not self._address.local,
            verify=self._tls if self._address.base.startswith("https:") else True,
        )

    @functools.cached_property
    def _tls(self) -> ssl.SSLContext:
        import httpx

        try:
            return httpx.create_ssl_context()
        except OSError as error:  # of which ssl.SSLError is one
            raise ServerError(
                _("Could not read the trusted certificates: {error}").format(error=error),
                _("See SSL_CERT_FILE and SSL_CERT_DIR."),
            ) from error


@dataclass(frozen=True, slots=True)
class _Address:
    base: str
    query: str
    login: tuple[str, str] | None
    local: bool

    @classmethod
    def of(cls, url: str) -> _Address:
        try:
            parts = urlsplit(url.strip())
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        host = parts.hostname or ""
        if parts.scheme not in ("http", "https") or not host:
            raise ServerError(
                _("This is no address of a server: {url}").format(url=redact_url(url)),
                _("It looks like http://localhost:8000/v1 and ends before /chat/completions."),
            )
        name = f"[{host}]" if ":" in host else host
        path = parts.path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
        login = (unquote(parts.username or ""), unquote(parts.password or ""))
        return cls(
            base=f"{parts.scheme}://{name}{'' if port is None else f':{port}'}{path}",
            query=parts.query,
            login=login if any(login) else None,
            local=_is_this_machine(host),
        )


def _is_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
