"""Selects the proxy of a request from HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY.

Many programs share these variables, so entries that glmtui does not understand are ignored, and an
unusable proxy is an error only for requests that would use it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

from glmtui.net.addresses import parse_ip

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# Names of SOCKS version 5 in other programs; with "h" the proxy resolves the host name.
_SOCKS_SCHEMES = {"socks": "socks5", "socks5a": "socks5h"}
_DEFAULT_PORTS = {"http": 80, "https": 443}


def proxy_for(scheme: str, host: str, port: int | None, settings: Mapping[str, str]) -> str | None:
    """The URL of the proxy for a request; None for a direct connection.

    Args:
        scheme: "http" or "https".
        host: a name, or an IP address without brackets.
        port: None for the default of the scheme.
        settings: result of `urllib.request.getproxies`, with the keys "http", "https", "all", "no".
    """
    proxy = (settings.get(scheme) or settings.get("all") or "").strip()
    if not proxy or is_excluded(host, port or _DEFAULT_PORTS.get(scheme), settings.get("no", "")):
        return None
    if not _SCHEME.match(proxy):
        return f"http://{proxy}"
    kind, _, rest = proxy.partition("://")
    return f"{_SOCKS_SCHEMES.get(kind.lower(), kind.lower())}://{rest}"


def is_excluded(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether NO_PROXY contains this host.

    Entries are host names, domains, IP addresses and networks, each with or without a port,
    separated by commas or spaces; "*" matches every host. Invalid entries are ignored.
    """
    return any(_matches(entry, host, port) for entry in re.split(r"[,\s]+", no_proxy) if entry)


def _matches(entry: str, host: str, port: int | None) -> bool:
    entry = _SCHEME.sub("", entry, count=1).rpartition("@")[2].lower()
    host = host.lower().rstrip(".").partition("%")[0]
    if entry == "*":
        return True
    address = parse_ip(host)
    name, entry_port = _split_entry(entry)
    if entry_port is not None and entry_port != port:
        return False
    if address is not None:
        try:
            return address in ipaddress.ip_network(name.partition("%")[0], strict=False)
        except ValueError:
            return False
    domain = name.removeprefix("*").strip(".")
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))


def _split_entry(entry: str) -> tuple[str, int | None]:
    """Host and port of an entry. A bare IPv6 address or network has colons but no port."""
    match = re.fullmatch(r"\[([^\]]*)\](/\d+)?(?::(\d{1,5}))?", entry)
    if match:
        return match[1] + (match[2] or ""), int(match[3]) if match[3] else None
    if entry.count(":") == 1:
        name, _, port = entry.partition(":")
        if port.isdecimal() and len(port) < 6:
            return name, int(port)
    return entry.rstrip("/") if "/" not in entry.rstrip("/") else entry, None
