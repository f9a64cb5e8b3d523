"""Pulling from a hub on 127.0.0.1: which files are downloaded, and errors."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import httpx
import huggingface_hub
import huggingface_hub.constants
import pytest

from glmtui.engine.catalog import resolver
from glmtui.engine.catalog.quants import MAX_CPM_BYTES
from glmtui.engine.progress import Progress
from glmtui.engine.pull import fetch, pull, staging
from glmtui.engine.pull.staging import PullCancelled
from glmtui.errors import BadCheckpoint, DownloadError, ModelNotFound, UnsupportedModel
from support.fake_hub import COMMIT, Fault, Hub, hub_server
from support.hub_repository import REPO, WEIGHTS
from support.tiny_llama import llama_files


def test_a_repository_becomes_a_model(hub: Hub, tmp_path: Path) -> None:
    info = pull(REPO, endpoint=hub.url)
    snapshot = tmp_path / "hub" / "models--someone--tiny" / "snapshots" / COMMIT
    assert (info.name, info.path, info.family) == (REPO, snapshot, "llama")
    assert info.nbytes == len(hub.repos[REPO][WEIGHTS])
    assert (snapshot / WEIGHTS).read_bytes() == hub.repos[REPO][WEIGHTS]
    assert resolver.resolve(REPO) == info
    assert resolver.installed_models() == [info]
    manifest = json.loads((resolver.models_dir() / "someone--tiny" / "manifest.json").read_text())
    assert manifest["source"] == f"hub:{REPO}"
    assert manifest["path"] == str(snapshot)
    assert manifest["files"] == {WEIGHTS: {"size": info.nbytes}}


def test_only_what_is_needed_comes(hub: Hub) -> None:
    files = hub.repos[REPO] = llama_files(shards=2)
    unneeded = {
        "pytorch_model-00001-of-00001.bin": b"x" * 5000,
        "pytorch_model.bin.index.json": b"{}",
        "modeling_chatglm.py": b"import os",
        "README.md": b"#",
        "training_args.bin": b"x",
        "onnx/model.safetensors": b"x",
        "original/config.json": b"{}",
        "model.gguf": b"GGUF",
    }
    wanted = {"chat_template.jinja": b"{{ x }}", "merges.txt": b"#", "tokenizer.model": b"x"}
    hub.repos[REPO] = {**files, **unneeded, **wanted, "vocab.txt": b""}
    info = pull(REPO, endpoint=hub.url)
    assert {path.name for path in info.path.iterdir()} == {*files, *wanted, "vocab.txt"}
    assert sorted(hub.downloads()) == sorted([*files, *wanted])


def test_chatglms_gpu_functions_come_as_text(hub: Hub, tmp_path: Path) -> None:
    files = llama_files()
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w')".encode()
    more = {"quantization.py": code, "modeling_chatglm.py": code}
    hub.repos[REPO] = {**files, **more}
    assert "quantization.py" not in {
        path.name for path in pull(REPO, endpoint=hub.url).path.iterdir()
    }
    more["tokenization_chatglm.py"] = code
    hub.repos[REPO] = {**files, **more}
    info = pull(REPO, endpoint=hub.url)
    assert {path.name for path in info.path.iterdir()} == {*files, "quantization.py"}
    assert (info.path / "quantization.py").read_bytes() == code
    assert not ran.exists()


def test_gpu_functions_of_a_strange_size_stay_away(hub: Hub) -> None:
    large = {"quantization.py": b"x" * (MAX_CPM_BYTES + 1), "tokenization_chatglm.py": b""}
    hub.repos[REPO] = {**llama_files(), **large}
    pull(REPO, endpoint=hub.url)
    assert "quantization.py" not in hub.downloads()


def test_bin_files_come_where_there_is_nothing_else(hub: Hub) -> None:
    hub.repos[REPO] = llama_files(shards=2, ends="bin")
    assert pull(REPO, endpoint=hub.url).nbytes > 0
    assert set(hub.downloads()) == set(hub.repos[REPO])


def test_progress_goes_file_by_file(hub: Hub) -> None:
    progress: list[Progress] = []
    pull(REPO, endpoint=hub.url, on_progress=progress.append)
    assert progress[0].what.startswith(f"requesting {REPO} from 127.0.0.1")
    assert "downloading config.json (1 of 4)" in [p.what for p in progress]
    last = [p for p in progress if WEIGHTS in p.what][-1]
    assert last.done == last.total == len(hub.repos[REPO][WEIGHTS])


def test_what_is_there_is_not_fetched_again(hub: Hub) -> None:
    pull(REPO, endpoint=hub.url)
    hub.requests.clear()
    pull(REPO, endpoint=hub.url)
    assert hub.downloads() == []


def test_a_cut_connection_is_taken_up_where_it_broke(hub: Hub) -> None:
    hub.faults[WEIGHTS] = Fault(cut_after=10_000, times=2)
    info = pull(REPO, endpoint=hub.url)
    assert (info.path / WEIGHTS).read_bytes() == hub.repos[REPO][WEIGHTS]
    assert [d for d in hub.downloads() if WEIGHTS in d] == [
        WEIGHTS,
        f"{WEIGHTS}@10000",
        f"{WEIGHTS}@20000",
    ]


def test_the_next_run_goes_on_where_this_one_gave_up(hub: Hub) -> None:
    hub.faults[WEIGHTS] = Fault(cut_after=10_000)
    cancelled = threading.Event()

    def stop_in_the_middle(progress: Progress) -> None:
        if WEIGHTS in progress.what and progress.done > 0:
            cancelled.set()

    with pytest.raises(PullCancelled):
        pull(REPO, endpoint=hub.url, on_progress=stop_in_the_middle, cancelled=cancelled)
    assert resolver.installed_models() == []
    hub.requests.clear()
    info = pull(REPO, endpoint=hub.url)
    assert (info.path / WEIGHTS).read_bytes() == hub.repos[REPO][WEIGHTS]
    (download,) = hub.downloads()
    assert download.startswith(f"{WEIGHTS}@")


def test_a_server_that_cannot_resume_sends_it_whole(hub: Hub) -> None:
    hub.resumes = False
    hub.faults[WEIGHTS] = Fault(cut_after=10_000)
    info = pull(REPO, endpoint=hub.url)
    assert (info.path / WEIGHTS).read_bytes() == hub.repos[REPO][WEIGHTS]


def test_a_connection_that_breaks_for_ever_is_given_up(hub: Hub) -> None:
    hub.faults[WEIGHTS] = Fault(cut_after=0, times=1000)
    with pytest.raises(DownloadError, match="failed repeatedly") as caught:
        pull(REPO, endpoint=hub.url)
    assert f"glmtui pull {REPO}" in caught.value.hint
    assert hub.faults[WEIGHTS].times == 1000 - fetch.MAX_ATTEMPTS


def test_a_busy_server_is_asked_again(hub: Hub) -> None:
    hub.faults[WEIGHTS] = Fault(status=503, times=3)
    assert pull(REPO, endpoint=hub.url).nbytes > 0


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
@pytest.mark.parametrize("change", ["shorter", "longer", "other"])
def test_wrong_bytes_are_noticed_and_not_kept(
    hub: Hub, tmp_path: Path, name: str, change: str
) -> None:
    good = hub.repos[REPO][name]
    bad = {"shorter": good[:-7], "longer": good + b"more", "other": good[:-1] + b"\0"}[change]
    hub.faults[name] = Fault(body=bad, times=100)
    message = "failed repeatedly" if change == "shorter" else "is damaged"
    with pytest.raises(DownloadError, match=message):
        pull(REPO, endpoint=hub.url)
    assert resolver.installed_models() == []
    hub.faults.clear()
    assert pull(REPO, endpoint=hub.url).nbytes == len(hub.repos[REPO][WEIGHTS])


@pytest.mark.parametrize("message", ["../../../escaped", "/tmp/escaped", "", "0" * 39])
@pytest.mark.parametrize("field", ["config.json", WEIGHTS, "commit"])
def test_a_hub_that_names_its_files_into_other_folders(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, message: str
) -> None:
    hub.digests[field] = message
    before = set(tmp_path.rglob("*"))
    with pytest.raises(DownloadError, match="instead of a checksum"):
        pull(REPO, endpoint=hub.url)
    assert [path for path in set(tmp_path.rglob("*")) - before if path.is_file()] == []
    assert hub.downloads() == []


def test_no_such_repository(hub: Hub) -> None:
    with pytest.raises(DownloadError, match=r"There is no someone/other on 127\.0\.0\.1"):
        pull("someone/other", endpoint=hub.url)


def test_a_file_that_vanished(hub: Hub) -> None:
    hub.faults[WEIGHTS] = Fault(status=404)
    with pytest.raises(DownloadError, match=f"There is no {WEIGHTS}"):
        pull(REPO, endpoint=hub.url)


def test_a_private_repository_wants_a_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "hf_secret"
    with pytest.raises(DownloadError, match="requires a login") as caught:
        pull(REPO, endpoint=hub.url)
    assert "HF_TOKEN" in caught.value.hint
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert pull(REPO, endpoint=hub.url).name == REPO


def test_the_token_stays_with_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.token = "hf_secret"
    with hub_server() as elsewhere:
        elsewhere.repos = hub.repos
        hub.faults[WEIGHTS] = Fault(redirect=elsewhere.url)
        assert pull(REPO, endpoint=hub.url).name == REPO
        assert elsewhere.downloads() == [WEIGHTS]
        assert elsewhere.tokens == [None]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (403, "refuses access"),
        (429, "limits the rate"),
        (500, r"failed \(HTTP"),
        (502, r"failed \(HTTP"),
    ],
)
def test_a_hub_that_refuses(hub: Hub, status: int, message: str) -> None:
    hub.status = status
    with pytest.raises(DownloadError, match=message):
        pull(REPO, endpoint=hub.url)


def test_no_network(hub: Hub) -> None:
    with httpx.Client() as client:  # a port that is not open
        assert client.get(hub.url + "/api/models/" + REPO).status_code == 200
    with pytest.raises(DownloadError, match="is unreachable") as caught:
        pull(REPO, endpoint="http://127.0.0.1:9")
    assert "hub.endpoint" in caught.value.hint


def test_without_a_network_the_hubs_cache_will_do(hub: Hub) -> None:
    info = pull(REPO, endpoint=hub.url)
    (resolver.models_dir() / "someone--tiny" / "manifest.json").unlink()
    progress: list[Progress] = []
    assert pull(REPO, endpoint="http://127.0.0.1:9", on_progress=progress.append) == info
    assert "Using the local copy" in " ".join(p.what for p in progress)


def test_half_a_model_in_the_hubs_cache_will_not(hub: Hub) -> None:
    hub.faults[WEIGHTS] = Fault(status=404)
    with pytest.raises(DownloadError):
        pull(REPO, endpoint=hub.url)
    with pytest.raises((DownloadError, BadCheckpoint)):
        pull(REPO, endpoint="http://127.0.0.1:9")
    assert resolver.installed_models() == []


def test_the_mirror_of_the_environment_is_asked(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url + "/")
    assert pull(REPO).name == REPO


def test_a_known_model_keeps_its_name_whatever_it_was_asked_as(hub: Hub) -> None:
    files = hub.repos[REPO]
    hub.repos = {"zai-org/chatglm3-6b": files, "THUDM/chatglm3-6b": files}
    info = pull("zai-org/chatglm3-6b", endpoint=hub.url)
    assert (info.name, info.title) == ("THUDM/chatglm3-6b", "ChatGLM3-6B")
    assert all("zai-org" in path for _, path, _ in hub.requests)
    hub.requests.clear()
    assert pull("chatglm3-6b", endpoint=hub.url).name == "THUDM/chatglm3-6b"
    assert all("THUDM" in path for _, path, _ in hub.requests)


def test_a_full_disk_is_said_before_anything_comes(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = staging.shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: full)
    with pytest.raises(DownloadError, match=f"Not enough disk space for {REPO}"):
        pull(REPO, endpoint=hub.url)
    assert hub.downloads() == []


def test_a_family_we_do_not_run_is_said_before_its_weights_come(hub: Hub) -> None:
    hub.repos[REPO]["config.json"] = b'{"model_type": "bert"}'
    with pytest.raises(UnsupportedModel, match="'bert'"):
        pull(REPO, endpoint=hub.url)
    assert hub.downloads() == ["config.json"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["config.json"], "it has no safetensors or pytorch_model.bin"),
        (["model.safetensors"], "it has no config.json"),
        (["model.Q4_K_M.gguf"], "it has no safetensors"),
    ],
)
def test_a_repository_without_a_model(hub: Hub, names: list[str], message: str) -> None:
    hub.repos[REPO] = dict.fromkeys(names, b"{}")
    with pytest.raises(UnsupportedModel, match=message):
        pull(REPO, endpoint=hub.url)


def test_a_hub_that_is_none(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("support.fake_hub.json.dumps", lambda value: "<html>")
    with pytest.raises(DownloadError, match="not a hub"):
        pull(REPO, endpoint=hub.url)


def test_what_is_no_name(hub: Hub) -> None:
    for ref in ("nothing", "a/b/c", "a b/c", "/nowhere"):
        with pytest.raises(ModelNotFound):
            pull(ref, endpoint=hub.url)


def test_certificates_that_are_none(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    with pytest.raises(DownloadError, match="Could not read the trusted certificates"):
        pull(REPO, endpoint=hub.url.replace("http:", "https:"))


def test_a_proxy_that_is_none(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "nonsense://user:canary@proxy")
    with pytest.raises(DownloadError, match="proxy set in the environment") as caught:
        pull(REPO, endpoint=hub.url)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["hub", "http://", "http://h:x/", "ftp://u:canary@h/"])
def test_an_endpoint_that_is_no_address(hub: Hub, endpoint: str) -> None:
    with pytest.raises(DownloadError, match="is not a hub address") as caught:
        pull(REPO, endpoint=endpoint)
    assert "canary" not in str(caught.value)


def test_an_endpoint_with_a_login_and_a_path(hub: Hub) -> None:
    host = hub.url.removeprefix("http://")
    assert pull(REPO, endpoint=f"http://me:p%40ss@{host}/").name == REPO
    assert {*hub.tokens} == {"Basic bWU6cEBzcw=="}


def test_a_token_that_cannot_be_sent(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_\u2603canary")
    with pytest.raises(DownloadError, match="contains invalid characters") as caught:
        pull(REPO, endpoint=hub.url)
    assert "canary" not in str(caught.value)


def test_offline_is_honoured(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
        pull(REPO, endpoint=hub.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    info = pull(REPO, endpoint=hub.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert pull(REPO, endpoint=hub.url) == info
    assert hub.requests == []


def test_huggingface_hub_finds_what_we_placed(hub: Hub) -> None:
    info = pull(REPO, endpoint=hub.url)
    found = huggingface_hub.try_to_load_from_cache(REPO, "config.json")
    assert found == str(info.path / "config.json")
    blob = (info.path / WEIGHTS).resolve()
    assert blob.parent.name == "blobs"
    assert (info.path / WEIGHTS).readlink() == Path("../../blobs", blob.name)
    again = huggingface_hub.snapshot_download(REPO, endpoint=hub.url, local_files_only=True)
    assert Path(again) == info.path
    scanned = huggingface_hub.scan_cache_dir()
    assert (len(scanned.repos), scanned.warnings) == (1, [])


def test_what_huggingface_hub_has_fetched_is_not_fetched_again(hub: Hub) -> None:
    for name in hub.repos[REPO]:
        huggingface_hub.hf_hub_download(REPO, name, endpoint=hub.url)
    hub.requests.clear()
    assert pull(REPO, endpoint=hub.url).nbytes == len(hub.repos[REPO][WEIGHTS])
    assert hub.downloads() == []


def test_a_file_system_without_links(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(self: Path, target: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "symlink_to", none)
    info = pull(REPO, endpoint=hub.url)
    assert (info.path / WEIGHTS).read_bytes() == hub.repos[REPO][WEIGHTS]
    assert not (info.path / WEIGHTS).is_symlink()
    hub.requests.clear()
    assert pull(REPO, endpoint=hub.url) == info
    assert hub.downloads() == []
