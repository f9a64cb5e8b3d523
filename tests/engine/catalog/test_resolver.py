"""The resolver, and the sizes of the known models in the registry."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from glmtui.engine.catalog import resolver
from glmtui.engine.catalog.families import FAMILIES
from glmtui.engine.catalog.known_models import DEFAULT_MODEL, MODELS, KnownModel, known_model
from glmtui.engine.catalog.model_folder import Manifest
from glmtui.engine.model_info import ModelInfo, ServerSpec
from glmtui.errors import BadCheckpoint, ModelNotFound, UsageError
from support.tiny_llama import llama_files, write_folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLMTUI_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def install(cache: Path, name: str, path: Path | None = None) -> Path:
    """Puts a model into the cache as `pull` does; `path` is where its files are, if elsewhere."""
    folder = cache / name.replace("/", "--")
    if path is None:
        write_folder(folder, llama_files())
    else:
        folder.mkdir(parents=True)
    manifest = Manifest(
        name, "llama", "A title", "test", "float16", {}, str(path) if path else None
    )
    manifest.write(folder)
    return folder


# ---- names


def test_an_installed_model_is_found_by_name(cache: Path) -> None:
    folder = install(cache, "smollm2")
    info = resolver.resolve("smollm2")
    assert isinstance(info, ModelInfo)
    assert (info.name, info.path, info.family) == ("smollm2", folder, "llama")
    assert (info.stored, info.title, info.context_length) == ("float16", "A title", 256)
    assert info.nbytes == (folder / "model.safetensors").stat().st_size
    assert info.parameters == 134_515_008  # it has the name of a known model


def test_the_files_of_a_hub_model_are_in_the_hubs_cache(cache: Path, tmp_path: Path) -> None:
    files = write_folder(tmp_path / "elsewhere", llama_files(shards=3))
    install(cache, "THUDM/chatglm3-6b", files)
    for ref in ("THUDM/chatglm3-6b", "zai-org/chatglm3-6b", "chatglm3-6b", "thudm/ChatGLM3-6B"):
        info = resolver.resolve(ref)
        assert isinstance(info, ModelInfo)
        assert (info.name, info.path) == ("THUDM/chatglm3-6b", files)


def test_a_folder_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "mine", llama_files())
    monkeypatch.chdir(tmp_path)
    for ref in (str(folder), "./mine", "mine"):
        info = resolver.resolve(ref)
        assert isinstance(info, ModelInfo)
        assert (info.name, info.path, info.family) == (str(folder), folder, "llama")
        assert (info.stored, info.parameters) == ("float16", None)


def test_servers_by_address_and_by_name() -> None:
    assert resolver.resolve("http://box:8000/v1/") == ServerSpec("http://box:8000/v1")
    box = ServerSpec("http://box:8000/v1", "glm")
    assert resolver.resolve("box", {"box": box}) is box


def test_for_a_known_model_that_is_not_installed_the_hint_is_pull() -> None:
    with pytest.raises(ModelNotFound, match="ChatGLM3-6B is not on this machine") as caught:
        resolver.resolve("zai-org/chatglm3-6b")
    assert caught.value.hint == "Download it (12.5 GB) with: glmtui pull THUDM/chatglm3-6b"


def test_for_a_typo_the_hint_has_similar_names(cache: Path) -> None:
    install(cache, "my-finetune")
    with pytest.raises(ModelNotFound) as caught:
        resolver.resolve("my-finetun")
    assert "my-finetune" in caught.value.hint
    with pytest.raises(ModelNotFound) as caught:
        resolver.resolve("boxx", {"box": ServerSpec("http://box/v1")})
    assert "box" in caught.value.hint
    with pytest.raises(ModelNotFound) as caught:
        resolver.resolve("someone/something")
    assert "glmtui pull someone/something" in caught.value.hint


INVALID_NAMES = ["..", "../secret", "/", "", ".", "~nobody-at-all/x", "x" * 5000, "a\0b"]


@pytest.mark.parametrize("ref", INVALID_NAMES)
def test_no_name_refers_to_a_folder_outside_the_cache(
    cache: Path, tmp_path: Path, ref: str
) -> None:
    write_folder(cache.parent / "secret", llama_files())
    Manifest("secret", "llama", "", "test", "float16").write(cache.parent / "secret")
    with pytest.raises((ModelNotFound, BadCheckpoint)):
        resolver.resolve(ref)


def test_for_a_gguf_file_the_hint_is_pull(tmp_path: Path) -> None:
    path = tmp_path / "some.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(UsageError, match="must be prepared"):
        resolver.resolve(str(path))


def test_damaged_models_are_not_listed_and_are_logged(
    cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert resolver.installed_models() == []
    install(cache, "b-model")
    install(cache, "a-model")
    install(cache, "gone", tmp_path / "gone")
    (install(cache, "broken") / "config.json").write_text("{")
    (install(cache, "no-note") / "manifest.json").write_text("[]")
    (cache / ".b-model.work").mkdir()
    assert [info.name for info in resolver.installed_models()] == ["a-model", "b-model"]
    logged = caplog.text
    assert all(name in logged for name in ("gone", "broken", "no-note"))


# ---- known models


def test_known_names_are_unique_and_their_families_exist() -> None:
    names = [model.name for model in MODELS]
    assert len(set(names)) == len(names)
    assert DEFAULT_MODEL in names
    keys = {family.key for family in FAMILIES}
    assert {model.family for model in MODELS} <= keys


def test_every_family_has_its_module() -> None:
    for family in FAMILIES:
        assert importlib.util.find_spec(family.module) is not None


def test_parameters_and_memory_follow_from_the_shapes() -> None:
    def known(name: str) -> KnownModel:
        model = known_model(name)
        assert model is not None
        return model

    layer6 = 12 * 4096**2 + 9 * 4096 + 4 * 4096
    chatglm = known("chatglm-6b")
    assert chatglm.parameters == 28 * layer6 + 2 * 4096 + 130_528 * 4096
    assert chatglm.kv_bytes_per_token == 28 * 2 * 4096 * 2
    grouped = 4608 * 4096 + 4608 + 4096**2 + 3 * 13_696 * 4096 + 2 * 4096
    assert known("chatglm2-6b").parameters == 28 * grouped + 4096 + 2 * 65_024 * 4096
    assert known("glm-4-9b-chat").parameters == 40 * grouped + 4096 + 2 * 151_552 * 4096
    small = 2 * 576**2 + 2 * 192 * 576 + 3 * 576 * 1536 + 2 * 576
    assert known("smollm2").parameters == 30 * small + 576 + 49_152 * 576

    # In GB, at 16 bits and a context of 2048: 13.3 for ChatGLM-6B-Slim, 12.5 for ChatGLM3.
    assert round(known("silver/chatglm-6b-slim").memory_nbytes() / 1e9, 1) == 13.3
    assert round(known("chatglm3-6b").memory_nbytes(None, 2048) / 1e9, 1) == 12.5
    for model in MODELS:
        sizes = [model.weight_nbytes(quant) for quant in (None, "int8", "int4")]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[2] < 0.5 * sizes[0]


def test_no_large_library_is_imported() -> None:
    large = {"torch", "transformers", "numpy", "textual", "huggingface_hub", "gguf"}
    code = (
        "import sys, glmtui.engine.catalog.resolver as c; c.installed_models();"
        f"print(sorted({large!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
