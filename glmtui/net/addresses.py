"""Parsing and redaction of URLs, and which hosts are this machine.

A URL can contain a password (``http://user:password@host``) or a key (``?api_key=...``). Call
`redact_url` before a URL is printed, logged or stored.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from glmtui.sanitize import sanitize_line

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

SCHEMES = ("http://", "https://")
# The user part may itself contain unencoded "/", "?", "#" or "@": it ends at the last "@" before
# white space or a quote.
_URL_IN_TEXT = re.compile(r"\b[a-z][a-z0-9+.-]{0,31}://[^\s\"'<>]+", re.IGNORECASE)
_TRAILING_PUNCTUATION = ".,;:!?)]"
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.IGNORECASE)


def is_server_url(text: str) -> bool:
    """Whether the name given for a model is the URL of a server."""
    return text.strip().lower().startswith(SCHEMES)


def redact_url(url: str) -> str:
    """`url` on one line without user name, password, query and fragment.

    A mistyped URL must not show its password either: a path with an "@" is left out, and of an
    invalid URL everything before the last "@" and after a "?" or "#" is removed.
    """
    url = url.strip()
    parts = parse_http_url(url)
    if parts is not None:
        host = parts.netloc.rpartition("@")[2]
        # this "@" may end a password that contains a "/"
        path = "/…" if "@" in parts.path else parts.path
        return sanitize_line(f"{parts.scheme}://{host}{path}")
    scheme, separator, rest = url.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        scheme, separator, rest = "", "", url
    rest = re.split(r"[?#]", rest.rpartition("@")[2], maxsplit=1)[0]
    return sanitize_line(f"{scheme}{separator}{rest}")


def redact_if_url(name: str) -> str:
    """The name of a model: redacted if it is a URL, else unchanged."""
    return redact_url(name) if "://" in name else name


def redact_credentials(text: str) -> str:
    """`text` with each URL in it redacted, for example an error message of a library."""
    return _URL_IN_TEXT.sub(_redact_match, text) if "://" in text else text


def is_this_machine(host: str) -> bool:
    """Whether a host name or IP address always means this machine; without a DNS lookup."""
    host = host.lower().rstrip(".").strip("[]")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = parse_ip(host)
    return address is not None and (address.is_loopback or address.is_unspecified)


def is_local_service(host: str) -> bool:
    """Whether a host is this machine or link-local; the latter serve metadata in clouds."""
    address = parse_ip(host.lower().rstrip(".").strip("[]"))
    return is_this_machine(host) or (address is not None and address.is_link_local)


def origin(parts: SplitResult) -> str:
    """Scheme, host and port of a URL. Raises ValueError for an invalid port."""
    host = parts.hostname or ""
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}{'' if parts.port is None else f':{parts.port}'}"


def parse_http_url(url: str) -> SplitResult | None:
    """The parts of an http(s) URL with a host and a valid port; None for anything else."""
    try:
        parts = urlsplit(url.strip())
        valid_port = parts.port is None or parts.port > 0
    except ValueError:
        return None
    return parts if valid_port and parts.scheme in ("http", "https") and parts.hostname else None


def parse_ip(host: str) -> IPv4Address | IPv6Address | None:
    """The address, unwrapped from IPv4-mapped IPv6 and without its zone; None for a host name."""
    import ipaddress

    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _redact_match(match: re.Match[str]) -> str:
    url = match.group()
    bare = url.rstrip(_TRAILING_PUNCTUATION)
    return redact_url(bare) + url[len(bare) :]
