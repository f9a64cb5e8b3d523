"""Network addresses: what of a URL may be shown or stored, and which hosts are this machine.

A URL can hold a password (``http://user:password@host``) or a key (``?api_key=...``). Everything
that prints, logs or stores a URL takes it through `redact_url` first. Knows no HTTP.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from glmtui.sanitize import sanitize_line

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

SCHEMES = ("http://", "https://")
# The user part may itself hold "/", "?", "#" or "@" that nobody encoded: it ends at the last "@"
# before a blank or a quote.
_IN_TEXT = re.compile(r"\b[a-z][a-z0-9+.-]{0,31}://[^\s\"'<>]+", re.IGNORECASE)
_TRAILING = ".,;:!?)]"
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.IGNORECASE)


def is_server_url(text: str) -> bool:
    """Whether a name that stands for a model is the URL of a server."""
    return text.strip().lower().startswith(SCHEMES)


def redact_url(url: str) -> str:
    """`url` on one line, as it may be shown or stored: without user, password, query and fragment.

    A mistyped URL is cut harder, so that it does not show its password either: a path with an "@"
    is left out, and of what is no sound URL all before the last "@" and after a "?" or "#".
    """
    url = url.strip()
    parts = parse_http_url(url)
    if parts is not None:
        host = parts.netloc.rpartition("@")[2]
        # an "@" there may be the end of a password with a "/" in it
        path = "/…" if "@" in parts.path else parts.path
        return sanitize_line(f"{parts.scheme}://{host}{path}")
    scheme, separator, rest = url.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        scheme, separator, rest = "", "", url
    rest = re.split(r"[?#]", rest.rpartition("@")[2], maxsplit=1)[0]
    return sanitize_line(f"{scheme}{separator}{rest}")


def redact_if_url(name: str) -> str:
    """The name of a model, as it may be shown or stored; of a URL, `redact_url`."""
    return redact_url(name) if "://" in name else name


def redact_credentials(text: str) -> str:
    """`text` with each URL in it as `redact_url` has it: for messages of libraries."""
    return _IN_TEXT.sub(_shown_in_text, text) if "://" in text else text


def is_this_machine(host: str) -> bool:
    """Whether a host name or IP address always means this machine; nothing is looked up."""
    host = host.lower().rstrip(".").strip("[]")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _ip(host)
    return address is not None and (address.is_loopback or address.is_unspecified)


def is_local_service(host: str) -> bool:
    """Whether a host is this machine or a link-local address, where clouds keep their metadata."""
    address = _ip(host.lower().rstrip(".").strip("[]"))
    return is_this_machine(host) or (address is not None and address.is_link_local)


def origin(parts: SplitResult) -> str:
    """Scheme, host and port of a URL: what a password or a token may be sent to.

    Raises ValueError for a port that is none.
    """
    host = parts.hostname or ""
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}{'' if parts.port is None else f':{parts.port}'}"


def parse_http_url(url: str) -> SplitResult | None:
    """The parts of an http(s) URL with a host and a sound port; None for anything else."""
    try:
        parts = urlsplit(url.strip())
        sound = parts.port is None or parts.port > 0
    except ValueError:
        return None
    return parts if sound and parts.scheme in ("http", "https") and parts.hostname else None


def _shown_in_text(found: re.Match[str]) -> str:
    url = found.group()
    bare = url.rstrip(_TRAILING)
    return redact_url(bare) + url[len(bare) :]


def _ip(host: str) -> IPv4Address | IPv6Address | None:
    import ipaddress

    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
