"""A hub or mirror that tries to write outside the cache, or to exhaust memory or time.

`support.fake_hub` really sends the attacks over 127.0.0.1. After each, only files of the cache may
be on the disk, under the cache's names.
"""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from glmtui.engine.progress import Progress
from glmtui.engine.pull import fetch, hub_api, pull
from glmtui.engine.pull.staging import PullCancelled
from glmtui.errors import DownloadError, GlmtuiError
from support.checkpoints import llama_files
from support.fake_hub import COMMIT, Fault, Hub, hub_server

REPO = "someone/tiny"
WEIGHTS = "model.safetensors"
ROOT = str(Path(__file__).parents[2])
MOST_BYTES = 64 << 20  # of memory that an answer may cost
MOST_SECONDS = 10.0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the caches some levels below, and what an attacker aims at."""
    home = tmp_path / "home"
    (home / ".config" / "autostart").mkdir(parents=True)
    monkeypatch.setenv("GLMTUI_CACHE_DIR", str(home / "cache" / "glmtui"))
    monkeypatch.setattr(
        huggingface_hub.constants, "HF_HUB_CACHE", str(home / "cache" / "huggingface" / "hub")
    )
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(home / "token"))
    for name in ("HF_ENDPOINT", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fetch, "FIRST_WAIT_SECONDS", 0.0)
    return home


@pytest.fixture
def hub(home: Path) -> Iterator[Hub]:
    with hub_server() as hub:
        hub.repos[REPO] = llama_files()
        yield hub


def tried(hub: Hub, **more: Any) -> GlmtuiError | None:
    """Pulls; the error, if any. It may cost neither much memory nor much time."""
    tracemalloc.start()
    began = time.monotonic()
    try:
        pull(REPO, endpoint=hub.url, **more)
    except GlmtuiError as error:
        return error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MOST_BYTES
        assert time.monotonic() - began < MOST_SECONDS
    return None


def strangers(home: Path, hub: Hub) -> set[str]:
    """The files below `home`, and beside it, that a sound pull would not have put there."""
    root = Path("cache", "huggingface", "hub", "models--someone--tiny")
    snapshot = root / "snapshots" / COMMIT
    ours = {root / "refs" / "main", Path("cache/glmtui/models/someone--tiny/manifest.json")}
    ours |= {snapshot / name for name in hub.repos[REPO]}
    found = {Path(os.path.relpath(p, home)) for p in home.parent.rglob("*") if not p.is_dir()}
    blobs = {path for path in found if path.parent == root / "blobs"}
    assert all(len(path.name.removesuffix(".incomplete")) in (40, 64) for path in blobs)
    return {str(path) for path in found - ours - blobs}


HEADERS: dict[str, dict[str, str]] = {
    "etag up": {"ETag": '"../../../../../.config/autostart/escaped.desktop"'},
    "etag absolute": {"ETag": '"{home}/.config/autostart/escaped.desktop"'},
    "etag weak": {"ETag": 'W/"../../../../../escaped.pth"'},
    "etag other digest": {"ETag": f'"{"0" * 40}"'},
    "etag empty": {"ETag": '""'},
    "etag with a NUL": {"ETag": '"a\x01b"'},
    "linked etag": {"X-Linked-Etag": '"{home}/escaped"', "X-Linked-Size": "3"},
    "commit up": {"X-Repo-Commit": "../../../../../escaped"},
    "commit absolute": {"X-Repo-Commit": "{home}/escaped"},
    "file name": {"Content-Disposition": 'attachment; filename="../../escaped"'},
    "xet": {"X-Xet-Hash": "../../escaped", "X-Xet-Refresh-Route": "http://127.0.0.1:9/"},
}


@pytest.mark.parametrize("headers", HEADERS)
def test_headers_do_not_name_files(hub: Hub, home: Path, headers: str) -> None:
    hub.headers = {name: v.replace("{home}", str(home)) for name, v in HEADERS[headers].items()}
    assert tried(hub) is None
    assert strangers(home, hub) == set()
    snapshot = home / "cache/huggingface/hub/models--someone--tiny/snapshots" / COMMIT
    for name, content in hub.repos[REPO].items():
        assert (snapshot / name).read_bytes() == content


NAMES = (
    *("../../../../../.config/autostart/escaped.json", "/tmp/escaped.json", "a/../../escaped.json"),
    *("..\\..\\escaped.json", "C:\\escaped.json", "c:escaped.json", "\\\\host\\escaped.json"),
    *("nul\0.json", "line\n.json", "con.json", "COM1.model", " .json", ".hidden.json", "..json"),
    *("．．／escaped.json", "..%2fescaped.json", "x" * 300 + ".json", "ｃonfig.json", "é.json"),
    *("\u202eescaped.json", "\ud800.json", "model-١-of-١.safetensors", "manifest.json", "a:b.json"),
)


def test_names_that_are_no_plain_names_are_left_out(hub: Hub, home: Path) -> None:
    entries = [{"rfilename": name, "size": 2, "blobId": "0" * 40} for name in NAMES]
    odd = [7, None, [], {}, {"rfilename": 7}, {"rfilename": ["config.json"]}]
    hub.entries = [*entries, *odd]
    assert tried(hub) is None
    assert strangers(home, hub) == set()
    assert sorted(hub.downloads()) == sorted(hub.repos[REPO])


@pytest.mark.parametrize("name", ["config.json", "Config.json", "MODEL.safetensors.json"])
def test_two_files_of_one_name(hub: Hub, home: Path, name: str) -> None:
    entry = {"rfilename": name, "size": 2, "blobId": "0" * 40}
    hub.entries = [entry, entry | {"rfilename": name.swapcase().replace("JSON", "json")}]
    assert "two with the same name" in str(tried(hub))
    assert strangers(home, hub) == set()
    assert hub.downloads() == []


@pytest.mark.parametrize("lfs", [True, False])
@pytest.mark.parametrize(
    "digest", ["../" * 13 + "a", "A" * 64, "0" * 39 + "\n", "٠" * 40, "0" * 63, 7, None, ["0" * 40]]
)
def test_digests_that_are_none(hub: Hub, home: Path, digest: Any, lfs: bool) -> None:
    said = {"lfs": {"sha256": digest}} if lfs else {"blobId": digest}
    hub.entries = [{"rfilename": "more.json", "size": 2, **said}]
    assert "instead of a checksum" in str(tried(hub))
    assert strangers(home, hub) == set()
    assert hub.downloads() == []


@pytest.mark.parametrize("size", [-1, 1.5, True, "1", 10**30, None, float("nan"), [1]])
def test_sizes_that_are_none(hub: Hub, size: Any) -> None:
    hub.entries = [{"rfilename": "more.json", "size": size, "blobId": "0" * 40}]
    assert "no size of more.json" in str(tried(hub))
    assert hub.downloads() == []


def test_more_files_than_a_model_has(hub: Hub) -> None:
    hub.entries = [{"rfilename": f"{n}.json", "size": 0, "blobId": "0" * 40} for n in range(3000)]
    assert "too many" in str(tried(hub))
    assert hub.downloads() == []


def reply(body: bytes, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def endless(handler: BaseHTTPRequestHandler) -> None:
    reply(b'{"siblings": [')(handler)
    while True:
        handler.wfile.write(b"{}," * 20_000)


def many_files(handler: BaseHTTPRequestHandler) -> None:
    entry = b'{"rfilename": "a/%06d.json", "size": 1, "blobId": "' + b"0" * 40 + b'"},'
    reply(b'{"sha": "' + COMMIT.encode() + b'", "siblings": [')(handler)
    for n in range(100):
        handler.wfile.write(b"".join(entry % (10_000 * n + i) for i in range(10_000)))
    handler.wfile.write(b"{}]}")


ANSWERS: dict[str, Callable[[BaseHTTPRequestHandler], object]] = {
    "a bomb": reply(gzip.compress(bytes(200 << 20)), Content_Encoding="gzip"),
    "a bomb in a bomb": reply(
        gzip.compress(gzip.compress(bytes(200 << 20))), Content_Encoding="gzip, gzip"
    ),
    "no end": endless,
    "a million files": many_files,
    "depth": reply(b"[" * (1 << 20)),
    "depth in a list": reply(b'{"siblings":' + b'{"a":' * (1 << 18)),
    "empty objects": reply(b'{"siblings":[' + b"{}," * 2_700_000 + b"{}]}"),
    "empty lists": reply(b'{"siblings":[' + b"[]," * 2_700_000 + b"[]]}"),
    "short texts": reply(b'{"siblings":[' + b'"ab",' * 1_600_000 + b'""]}'),
    "digits": reply(b'{"siblings":[{"size":' + b"9" * (1 << 20) + b"}]}"),
    "no object": reply(b"[]"),
    "no list": reply(b'{"sha": "' + COMMIT.encode() + b'", "siblings": {"a": 1}}'),
    "no text": reply(b"\xff\xfe\x00"),
    "nothing": reply(b""),
    "a line of headers": lambda handler: handler.wfile.write(
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 999_999
    ),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_that_are_none(hub: Hub, home: Path, answer: str) -> None:
    hub.answer = ANSWERS[answer]
    assert isinstance(tried(hub), DownloadError)
    assert strangers(home, hub) == set()


@pytest.mark.parametrize("where", ["file:///etc/passwd", "ftp://127.0.0.1/", "//[", "x", "gopher:"])
def test_redirects_that_lead_nowhere(hub: Hub, where: str) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(307)
        handler.send_header("Location", where if where != "x" else handler.path + "x")
        handler.end_headers()

    hub.answer = answer
    assert isinstance(tried(hub), DownloadError)


def drip(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        handler.wfile.write(b"x")
        time.sleep(0.01)


def test_an_answer_that_drips_has_its_time(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_api, "API_SECONDS", 0.2)
    hub.answer = drip
    assert "DeadlineExceeded" in str(tried(hub))


def test_an_answer_that_drips_is_left_at_once(hub: Hub) -> None:
    hub.answer = drip
    cancelled = threading.Event()
    threading.Timer(0.2, cancelled.set).start()
    began = time.monotonic()
    assert isinstance(tried(hub, cancelled=cancelled), PullCancelled)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("drips", ["headers", "body"])
def test_a_file_that_drips_is_given_up(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, drips: str
) -> None:
    monkeypatch.setattr(fetch, "STALL_SECONDS", 0.05)
    content = hub.repos[REPO][WEIGHTS]
    hub.faults[WEIGHTS] = Fault(drip_seconds=0.02, drips=drips, times=100)
    assert "failed repeatedly" in str(tried(hub))
    hub.faults.clear()
    assert tried(hub) is None
    assert len(content) > fetch.PROGRESS_BYTES


@pytest.mark.parametrize("drips", ["headers", "body"])
def test_a_file_that_drips_is_left_at_once(hub: Hub, drips: str) -> None:
    hub.faults[WEIGHTS] = Fault(drip_seconds=5.0, drips=drips)
    cancelled = threading.Event()

    def on_progress(progress: Progress) -> None:
        if WEIGHTS in progress.what:
            threading.Timer(0.2, cancelled.set).start()

    began = time.monotonic()
    assert isinstance(tried(hub, cancelled=cancelled, on_progress=on_progress), PullCancelled)
    assert time.monotonic() - began < 4


@pytest.mark.parametrize(
    "said", ["bytes 5-9/10", "bytes 999999999999999999999-1/1", "bytes */1", "x", "bytes ٣-4/9"]
)
def test_a_range_that_was_not_asked_for(hub: Hub, home: Path, said: str) -> None:
    hub.headers = {"Content-Range": said.encode().decode("latin-1")}
    assert isinstance(tried(hub), DownloadError)
    hub.headers.clear()
    assert tried(hub) is None
    assert strangers(home, hub) == set()


def test_ctrl_c_ends_it(hub: Hub, home: Path) -> None:
    hub.answer = drip
    environ = {**os.environ, "HF_HOME": str(home / "cache" / "huggingface"), "PYTHONPATH": ROOT}
    command = [sys.executable, "-m", "glmtui", "-s", f"hub.endpoint={hub.url}", "pull", REPO]
    with subprocess.Popen(command, env=environ, cwd="/", stderr=subprocess.PIPE) as process:
        while not hub.requests:
            time.sleep(0.01)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    assert time.monotonic() - began < 3


def test_a_file_without_an_end(hub: Hub, home: Path) -> None:
    hub.faults["config.json"] = Fault(body=bytes(50 << 20), times=100)
    assert "is damaged" in str(tried(hub))
    assert sum(p.stat().st_size for p in home.rglob("*") if p.is_file()) < 1 << 20


def test_a_link_in_the_cache_is_not_written_through(hub: Hub, home: Path) -> None:
    blobs = home / "cache/huggingface/hub/models--someone--tiny/blobs"
    blobs.mkdir(parents=True)
    aim = home / ".config" / "autostart" / "escaped"
    assert tried(hub) is None
    for blob in list(blobs.iterdir()):
        blob.unlink()
        blob.with_name(blob.name + ".incomplete").symlink_to(aim)
    assert isinstance(tried(hub), DownloadError)
    assert not aim.exists()


def test_two_at_once(hub: Hub, home: Path) -> None:
    hub.faults[WEIGHTS] = Fault(drip_seconds=5.0)
    cancelled, started = threading.Event(), threading.Event()

    def on_progress(progress: Progress) -> None:
        if WEIGHTS in progress.what:
            started.set()

    def first() -> None:
        with suppress(PullCancelled):
            pull(REPO, endpoint=hub.url, on_progress=on_progress, cancelled=cancelled)

    thread = threading.Thread(target=first)
    thread.start()
    assert started.wait(10)
    while WEIGHTS not in hub.downloads():
        time.sleep(0.01)
    assert "Another program is downloading" in str(tried(hub))
    cancelled.set()
    thread.join(10)
    assert tried(hub) is None
    assert strangers(home, hub) == set()


def test_what_is_made_is_not_for_others_to_write(hub: Hub, home: Path) -> None:
    before = os.umask(0)
    try:
        assert tried(hub) is None
    finally:
        os.umask(before)
    made = [path for path in (home / "cache").rglob("*") if not path.is_symlink()]
    assert [path for path in made if path.stat().st_mode & 0o002] == []
    ours = home / "cache" / "glmtui"
    assert {path.stat().st_mode & 0o777 for path in (ours, ours / "models")} == {0o700}
    assert [path for path in ours.rglob("*") if path.stat().st_mode & 0o022] == []


def test_a_cache_that_others_could_write_to_is_closed(hub: Hub, home: Path) -> None:
    models = home / "cache" / "glmtui" / "models"
    models.mkdir(parents=True)
    models.chmod(0o777)
    assert tried(hub) is None
    assert models.stat().st_mode & 0o002 == 0
