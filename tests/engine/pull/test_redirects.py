"""Mirrors that redirect: followed, or the error names the new address."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import httpx
import pytest

from glmtui.engine.pull import pull
from glmtui.errors import DownloadError
from glmtui.net.http_client import RedirectRefused, check_redirect, is_same_service
from support.fake_hub import Fault, Hub
from support.http_answers import answering, send
from support.hub_repository import REPO, WEIGHTS


@contextmanager
def mirror(where: Callable[[str], str], status: int = 308) -> Iterator[str]:
    """Run a server that redirects each path; yields its address."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        send(handler, b"", status, Location=where(handler.path), Content_Length="0")

    with answering(answer) as url:
        yield url.rstrip("/")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_mirror_that_has_moved_is_followed(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with mirror(lambda path: hub.url + path, status) as moved:
        assert pull(REPO, endpoint=moved).name == REPO
    assert WEIGHTS in hub.downloads()
    assert set(hub.tokens) == {None}


def test_a_mirror_that_has_moved_into_a_folder_is_followed(hub: Hub) -> None:
    with (
        mirror(lambda path: hub.url + path.removeprefix("/hf/")) as moved,
        mirror(lambda path: f"{moved}/hf/{path}", 301) as first,
    ):
        assert pull(REPO, endpoint=first).name == REPO


def test_a_file_that_breaks_behind_a_redirect_goes_on(hub: Hub) -> None:
    hub.faults[WEIGHTS] = Fault(cut_after=5000)
    with mirror(lambda path: hub.url + path) as moved:
        assert pull(REPO, endpoint=moved).name == REPO
    assert f"{WEIGHTS}@5000" in hub.downloads()


def test_a_repository_that_was_renamed_is_followed(hub: Hub) -> None:
    hub.repos["someone/new"] = hub.repos.pop(REPO)
    with mirror(lambda path: hub.url + path.replace(REPO, "someone/new"), 307) as renamed:
        assert pull(REPO, endpoint=renamed).name == REPO


@pytest.mark.parametrize("what", ["all", "a file"])
@pytest.mark.parametrize("base", ["", "/hf"])
def test_where_a_token_is_wanted_the_new_address_is_named(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, what: str, base: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    if what == "all":
        hub.token = "hf_secret"
    else:
        hub.faults[WEIGHTS] = Fault(status=403)
    with mirror(lambda path: hub.url + path.removeprefix(base)) as moved:
        with pytest.raises(DownloadError, match="redirects to") as caught:
            pull(REPO, endpoint=moved + base)
        message = caught.value.message
        assert re.findall(r"http://[\w.:/]+", message) == [moved + base, hub.url], message
    assert caught.value.hint.endswith(f"Set hub.endpoint or HF_ENDPOINT to {hub.url}.")
    assert set(hub.tokens) == {None}
    hub.faults.clear()
    assert pull(REPO, endpoint=hub.url).name == REPO  # follow the hint


def test_a_store_of_files_that_refuses_is_no_matter_of_the_token(hub: Hub) -> None:
    with answering(lambda handler: send(handler, b"", 403)) as store:
        hub.faults[WEIGHTS] = Fault(redirect=store + "signed?to=")
        with pytest.raises(DownloadError, match="refuses access to") as caught:
            pull(REPO, endpoint=hub.url)
    assert "token" not in caught.value.hint


def test_a_mirror_that_sends_all_to_its_new_front_page(hub: Hub) -> None:
    with (
        answering(lambda handler: send(handler, b"<html>We have moved</html>")) as page,
        mirror(lambda path: page) as moved,
        pytest.raises(DownloadError, match=f"redirects to {page}") as caught,
    ):
        pull(REPO, endpoint=moved)
    assert "hub.endpoint" in caught.value.hint


def test_a_redirect_that_is_not_followed_is_named_at_once(hub: Hub) -> None:
    started = time.monotonic()
    with (
        mirror(lambda path: "ftp://files.example" + path) as odd,
        pytest.raises(DownloadError, match=r"redirects to ftp://files\.example, which is not"),
    ):
        pull(REPO, endpoint=odd)
    hub.faults[WEIGHTS] = Fault(redirect="ftp://user:canary@files.example", times=9)
    with pytest.raises(
        DownloadError, match=r"redirects to ftp://files\.example, which is not"
    ) as caught:
        pull(REPO, endpoint=hub.url)
    assert "canary" not in str(caught.value)
    assert hub.faults[WEIGHTS].times == 8
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("first", "target", "expected"),
    [
        ("http://hub.example/a", "http://HUB.example:80/b", True),
        ("http://hub.example/a", "https://hub.example/a", True),
        ("https://hub.example/a", "https://hub.example:443/a", True),
        ("https://hub.example/a", "http://hub.example/a", False),
        ("http://hub.example/a", "https://hub.example:8443/a", False),
        ("http://hub.example:8080/a", "https://hub.example/a", False),
        ("http://hub.example/a", "http://hub.example:8080/a", False),
        ("http://hub.example/a", "https://cdn.hub.example/a", False),
    ],
)
def test_who_may_have_a_token(first: str, target: str, expected: bool) -> None:
    assert is_same_service(httpx.URL(first), httpx.URL(target)) is expected


@pytest.mark.parametrize(
    ("here", "target"),
    [
        ("https://hub.example/", "http://hub.example/x"),
        ("http://hub.example/", "http://127.0.0.1:9/x"),
    ],
)
def test_a_refused_redirect_says_where_it_leads(here: str, target: str) -> None:
    with pytest.raises(RedirectRefused) as caught:
        check_redirect(httpx.URL(here), httpx.URL(target))
    assert caught.value.target == target
