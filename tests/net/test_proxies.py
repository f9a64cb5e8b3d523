"""Proxies as the environment names them, for each request by itself."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from glmtui.chat import Message
from glmtui.engine.model_info import ServerSpec
from glmtui.engine.remote import ServerModel
from glmtui.errors import ServerError
from glmtui.net.proxies import is_excluded, proxy_for
from support.fake_server import serving

HI = (Message("user", "hi"),)
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.mark.parametrize(
    ("no_proxy", "host", "port"),
    [
        ("localhost,::1,fd00::/8", "fd00::5", 80),
        ("[::1]", "::1", 80),
        ("[fd00::]/8", "fd12::1", 80),
        ("[2001:db8::1]:8080", "2001:db8::1", 8080),
        ("10.0.0.0/8", "10.2.3.4", 80),
        ("10.0.0.1/8", "10.2.3.4", 80),
        ("127.0.0.1", "::ffff:127.0.0.1", 80),
        ("corp.example", "gpu.corp.example", 80),
        (".corp.example", "corp.example", 80),
        ("*.corp.example", "gpu.CORP.example.", 80),
        ("http://corp.example", "corp.example", 80),
        ("corp.example:8000", "corp.example", 8000),
        (" a.example  corp.example ", "corp.example", 80),
        ("x,*", "corp.example", 80),
    ],
)
def test_hosts_that_no_proxy_names(no_proxy, host, port):
    assert is_excluded(host, port, no_proxy)


@pytest.mark.parametrize(
    ("no_proxy", "host", "port"),
    [
        ("localhost,::1,fd00::/8", "2001:db8::1", 80),
        ("[::1", "corp.example", 80),
        ("fd00::/888,::g,[,]:,:,/,[]", "corp.example", 80),
        ("fd00::/888,::g,[,]:,:,/,[]", "::1", 80),
        ("corp.example:8000", "corp.example", 80),
        ("[2001:db8::1]:8080", "2001:db8::1", 80),
        ("corp.example", "notcorp.example", 80),
        ("10.0.0.0/8", "10.example", 80),
        ("", "corp.example", 80),
    ],
)
def test_hosts_that_it_does_not(no_proxy, host, port):
    assert not is_excluded(host, port, no_proxy)


@pytest.mark.parametrize(
    ("named", "used"),
    [
        ("127.0.0.1:7890", "http://127.0.0.1:7890"),
        ("http://p:1", "http://p:1"),
        ("HTTP://p:1", "http://p:1"),
        ("socks://127.0.0.1:7891/", "socks5://127.0.0.1:7891/"),
        ("socks5h://p:1", "socks5h://p:1"),
        (" ", None),
        ("", None),
    ],
)
def test_a_proxy_in_the_spelling_of_other_programs(named, used):
    assert proxy_for("http", "gpu.example", None, {"all": named}) == used


@pytest.fixture
def environment(monkeypatch):
    """Sets the variables for proxies, and no others."""

    def put(**values):
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


def ask(url):
    return "".join(ServerModel(ServerSpec(url, "m")).stream(HI))


@pytest.mark.parametrize("odd", ["localhost,::1,fd00::/8", "[::1]", "http://[::1", "%%,a b:c:d"])
def test_entries_that_cannot_be_read_harm_nobody(environment, odd):
    with serving(lambda exchange: exchange.reply("ok")) as server:
        environment(HTTP_PROXY=server.url.removesuffix("/v1"), NO_PROXY=odd)
        assert ask("http://gpu.example/v1") == "ok"
    assert [e.path for e in server.exchanges] == ["http://gpu.example/v1/chat/completions"]


@pytest.mark.parametrize(
    "proxy", ["socks://127.0.0.1:1", "gopher://p", "http://[::1", "socks4://p"]
)
def test_a_proxy_that_cannot_be_used_does_not_matter_where_it_is_not(environment, proxy):
    with serving(lambda exchange: exchange.reply("ok")) as server:
        environment(ALL_PROXY=proxy, NO_PROXY="localhost.localdomain,127.0.0.0/8")
        assert ask(server.url) == "ok"
        environment(ALL_PROXY=proxy, HTTP_PROXY=server.url.removesuffix("/v1"))
        assert ask("http://gpu.example/v1") == "ok"


@pytest.mark.parametrize("proxy", ["gopher://u:pa55@p", "http://u:pa55@[::1", "socks4://u:pa55@p"])
def test_a_proxy_that_cannot_be_used_is_said_where_it_is(environment, proxy):
    environment(ALL_PROXY=proxy)
    with pytest.raises(ServerError, match="proxy set in the environment cannot be used") as caught:
        ask("http://gpu.example/v1")
    assert "NO_PROXY" in caught.value.hint
    assert "pa55" not in str(caught.value)


@pytest.mark.skipif(find_spec("socksio") is not None, reason="SOCKS proxies can be used here")
def test_a_socks_proxy_without_its_package_is_said(environment):
    for proxy in ("socks://127.0.0.1:1", "socks5h://127.0.0.1:1"):
        environment(ALL_PROXY=proxy)
        with pytest.raises(ServerError, match="need the package socksio") as caught:
            ask("http://gpu.example/v1")
        assert "httpx[socks]" in caught.value.hint


def test_certificates_that_cannot_be_read_are_said(environment, monkeypatch, tmp_path):
    environment()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(ServerError, match="Could not read the trusted certificates") as caught:
        ask("https://127.0.0.1:9/v1")
    assert "SSL_CERT_FILE" in caught.value.hint
