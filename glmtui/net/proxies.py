"""Which proxy a request takes, by the environment's HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY.

What those hold is written for many programs. An entry that cannot be understood is passed over; a
proxy that cannot be used is an error only for requests that would take it. Knows no HTTP.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# Names of SOCKS version 5 in other programs; with "h" the proxy looks the host's name up.
_SOCKS = {"socks": "socks5", "socks5a": "socks5h"}
_PORTS = {"http": 80, "https": 443}


def proxy_for(scheme: str, host: str, port: int | None, settings: Mapping[str, str]) -> str | None:
    """The URL of the proxy for a request; None where it goes straight to its host.

    Args:
        scheme: "http" or "https".
        host: a name, or an address without brackets.
        port: None is the scheme's own.
        settings: as of `urllib.request.getproxies`: "http", "https", "all", "no".
    """
    proxy = (settings.get(scheme) or settings.get("all") or "").strip()
    if not proxy or is_excluded(host, port or _PORTS.get(scheme), settings.get("no", "")):
        return None
    if not _SCHEME.match(proxy):
        return f"http://{proxy}"
    kind, _, rest = proxy.partition("://")
    return f"{_SOCKS.get(kind.lower(), kind.lower())}://{rest}"


def is_excluded(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether NO_PROXY names this host.

    Entries are names (of the host or a domain it lies in), addresses, networks, each with a port
    or without, separated by commas or blanks; "*" is every host. Others are passed over.
    """
    return any(_names(entry, host, port) for entry in re.split(r"[,\s]+", no_proxy) if entry)


def _names(entry: str, host: str, port: int | None) -> bool:
    entry = _SCHEME.sub("", entry, count=1).rpartition("@")[2].lower()
    host = host.lower().rstrip(".").partition("%")[0]
    if entry == "*":
        return True
    address = _address(host)
    name, wanted = _parted(entry)
    if wanted is not None and wanted != port:
        return False
    if address is not None:
        try:
            return address in ipaddress.ip_network(name.partition("%")[0], strict=False)
        except ValueError:
            return False
    domain = name.removeprefix("*").strip(".")
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))


def _parted(entry: str) -> tuple[str, int | None]:
    """Host and port of an entry; a bare IPv6 address or network has colons and no port."""
    found = re.fullmatch(r"\[([^\]]*)\](/\d+)?(?::(\d{1,5}))?", entry)
    if found:
        return found[1] + (found[2] or ""), int(found[3]) if found[3] else None
    if entry.count(":") == 1:
        name, _, port = entry.partition(":")
        if port.isdecimal() and len(port) < 6:
            return name, int(port)
    return entry.rstrip("/") if "/" not in entry.rstrip("/") else entry, None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
