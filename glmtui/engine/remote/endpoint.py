"""The address of a server and how to connect to it: API key, proxies, TLS and time limits."""

from __future__ import annotations

import functools
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from glmtui.engine.model_info import ServerSpec
from glmtui.errors import ServerError
from glmtui.language import _
from glmtui.net.addresses import is_this_machine, redact_url
from glmtui.sanitize import sanitize_line

if TYPE_CHECKING:
    import httpx

    from glmtui.net.http_client import AbortHandle


class Endpoint:
    """The API of an OpenAI-compatible server.

    Attributes:
        redacted_url: its URL without user name, password and query, for display.
        key: the API key; use it to mask the key in text, never display it.

    Raises ServerError for an invalid address or key.
    """

    def __init__(self, spec: ServerSpec) -> None:
        address = _Address.parse(spec.url)
        self.redacted_url = sanitize_line(address.base)
        self.key = spec.api_key.strip()
        self._address = address
        if not (self.key.isascii() and self.key.isprintable()):
            raise ServerError(
                _("The API key for {server} contains invalid characters.").format(
                    server=self.redacted_url
                ),
                _("Check its environment variable for line breaks or extra quotes."),
            )

    def url(self, path: str) -> str:
        """The URL to request for a path such as "/models"."""
        query = f"?{self._address.query}" if self._address.query else ""
        return f"{self._address.base}{path}{query}"

    def open_client(
        self, read_timeout: float, abort_handle: AbortHandle | None = None
    ) -> httpx.Client:
        """A client for one request; the caller closes it.

        Proxies from the environment are used, except for a server on this machine. Redirects are
        not followed: the conversation and the key are sent only where the user said.

        Args:
            read_timeout: seconds to wait for the next bytes.
            abort_handle: can abort the request from any thread.

        Raises ServerError if the certificates in SSL_CERT_FILE cannot be read.
        """
        from glmtui.net.http_client import http_client

        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        return http_client(
            abort_handle,
            auth=self._address.login,
            headers=headers,
            read_timeout=read_timeout,
            proxies=not self._address.is_local,
            verify=self._tls_context if self._address.base.startswith("https:") else True,
        )

    @functools.cached_property
    def _tls_context(self) -> ssl.SSLContext:
        import httpx

        try:
            return httpx.create_ssl_context()
        except OSError as error:  # includes ssl.SSLError
            raise ServerError(
                _("Could not read the trusted certificates: {error}").format(error=error),
                _("See SSL_CERT_FILE and SSL_CERT_DIR."),
            ) from error


@dataclass(frozen=True, slots=True)
class _Address:
    base: str
    query: str
    login: tuple[str, str] | None
    is_local: bool

    @classmethod
    def parse(cls, url: str) -> _Address:
        try:
            parts = urlsplit(url.strip())
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        host = parts.hostname or ""
        if parts.scheme not in ("http", "https") or not host:
            raise ServerError(
                _("Invalid server address: {url}").format(url=redact_url(url)),
                _("It should look like http://localhost:8000/v1, without /chat/completions."),
            )
        name = f"[{host}]" if ":" in host else host
        path = parts.path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
        login = (unquote(parts.username or ""), unquote(parts.password or ""))
        return cls(
            base=f"{parts.scheme}://{name}{'' if port is None else f':{port}'}{path}",
            query=parts.query,
            login=login if any(login) else None,
            is_local=is_this_machine(host),
        )
