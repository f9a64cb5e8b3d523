"""What of an address may be shown, and which addresses are this machine."""

from __future__ import annotations

import pytest

from glmtui.net.addresses import (
    is_local_service,
    is_this_machine,
    redact_credentials,
    redact_url,
)

SECRET = "canary"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
        (f"http://user:{SECRET}@host:8000/v1?api_key={SECRET}#{SECRET}", "http://host:8000/v1"),
        (f"HTTPS://{SECRET}@Host/v1/", "https://Host/v1/"),
        (f"http://u:{SECRET}@[::1]:80/v1", "http://[::1]:80/v1"),
        (f"http://u:{SECRET}@x@host/v1", "http://host/v1"),
        (f"http://u:{SECRET}/w@host/v1", "http://host/v1"),
        (f"http://u:{SECRET}?w@host/v1", "http://host/v1"),
        (f"http://u:/{SECRET}@host/v1", "http://u:/…"),
        (f"u:{SECRET}@host/v1", "host/v1"),
        (f"http:/u:{SECRET}@host", "host"),
        (f"ftp://u:{SECRET}@host/?{SECRET}", "ftp://host/"),
        (f"http://u:{SECRET}@host:99999999/v1", "http://host:99999999/v1"),
        (f"http://u:{SECRET}@[::1/v1?{SECRET}", "http://[::1/v1"),
        ("http://host/\x1b[31mred\u202e", "http://host/␛[31mred\ufffd"),
    ],
)
def test_user_password_query_and_fragment_are_not_shown(url: str, shown: str) -> None:
    assert redact_url(url) == shown


def test_addresses_inside_a_text() -> None:
    text = f"GET http://u:{SECRET}@h/v1?k={SECRET} failed (proxy socks5://{SECRET}:x@p:1), once."
    assert redact_credentials(text) == "GET http://h/v1 failed (proxy socks5://p:1), once."


def test_which_hosts_are_this_machine() -> None:
    ours = ("localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.9.9.9", "::1", "0.0.0.0")
    assert all(is_this_machine(host) for host in (*ours, "::ffff:127.0.0.1", "[::1]"))
    assert not any(is_this_machine(host) for host in ("host", "10.0.0.1", "169.254.169.254", ""))
    assert is_local_service("169.254.169.254")
    assert is_local_service("fe80::1%eth0")
    assert not is_local_service("10.0.0.1")
