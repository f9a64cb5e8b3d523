"""A model folder on disk: its config.json, its weight files and its manifest.

The manifest describes a pulled model. It is in the folder with the model's files, or, if the files
belong to the hub's cache or to the user, in a folder of its own with the path to them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glmtui.engine.catalog.config_check import check_config
from glmtui.engine.catalog.families import detect_family, family_by_key
from glmtui.engine.model_info import ModelInfo
from glmtui.errors import BadCheckpoint, ModelNotFound
from glmtui.language import N_, _

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
MAX_SHARDS = 1000  # a model of 1 TB has about 200
MAX_JSON_BYTES = 64 << 20  # an index of thousands of tensors has a few MB
MAX_VOCABULARY_BYTES = 32 << 20  # size limit of a tokenizer.model; GLM-4's has 2.6 MB
CONTEXT_KEYS = (
    "max_position_embeddings",
    "seq_length",
    "max_sequence_length",
    "n_positions",
    "max_seq_len",
)
MAX_CONTEXT_LENGTH = 2**31  # tokens; a larger value means that no limit was set
LFS_POINTER = b"version https://git-lfs"
GGUF_HINT = N_("Prepare a GGUF file with: glmtui pull FILE.gguf")
PULL_AGAIN_HINT = N_("The download is incomplete. Resume it with: glmtui pull")


@dataclass(frozen=True, slots=True)
class Manifest:
    """Description of a pulled model, written when it was pulled.

    Attributes:
        source: where it came from, such as "hub:THUDM/chatglm3-6b".
        stored: format of the weights on disk, such as "int4 g32".
        files: size and, if known, sha256 of each file.
        path: the folder with the model's files, if it is not the manifest's folder.
    """

    name: str
    family: str
    title: str
    source: str
    stored: str
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    path: str | None = None

    def write(self, folder: Path) -> None:
        """Raises OSError."""
        content: dict[str, Any] = {
            "format": MANIFEST_FORMAT,
            "name": self.name,
            "family": self.family,
            "title": self.title,
            "source": self.source,
            "stored": self.stored,
            "files": {name: dict(entry) for name, entry in sorted(self.files.items())},
        }
        if self.path is not None:
            content["path"] = self.path
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / MANIFEST).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Raises BadCheckpoint."""
        path = folder / MANIFEST
        content = read_json_object(path)
        texts = {}
        for key in ("name", "family", "title", "source", "stored"):
            if not isinstance(content.get(key), str):
                raise BadCheckpoint(
                    _("{path} has no {key}.").format(path=path, key=key), _(PULL_AGAIN_HINT)
                )
            texts[key] = content[key]
        if content.get("format") != MANIFEST_FORMAT:
            raise BadCheckpoint(
                _("{path} was written by another version of glmtui.").format(path=path),
                _(PULL_AGAIN_HINT),
            )
        files_path, files = content.get("path"), content.get("files", {})
        if not isinstance(files_path, str | None) or not isinstance(files, dict):
            raise BadCheckpoint(_("{path} is damaged.").format(path=path), _(PULL_AGAIN_HINT))
        return cls(**texts, files=files, path=files_path)


def inspect_folder(folder: Path, name: str = "", family: str | None = None) -> ModelInfo:
    """Reads what model a folder contains, and checks that its files are complete.

    Args:
        name: the model's name; by default that of its manifest, or the path.
        family: a key of `FAMILIES`; by default the family is detected.

    Raises:
        ModelNotFound: the folder does not exist.
        BadCheckpoint: files are missing, damaged or git-lfs pointers, or a value of config.json is
            not valid.
        UnsupportedModel: the model's family is not supported.
    """
    if not folder.is_dir():
        raise ModelNotFound(_("Folder not found: {folder}").format(folder=folder))
    manifest = Manifest.read(folder) if (folder / MANIFEST).is_file() else None
    files_folder = Path(manifest.path) if manifest and manifest.path is not None else folder
    if not files_folder.is_dir():
        raise BadCheckpoint(
            _("The folder with the files of {name} no longer exists: {folder}").format(
                name=folder.name, folder=files_folder
            ),
            _("Download the model again with: glmtui pull"),
        )
    config = read_config(files_folder)
    key = family or (manifest.family if manifest else None)
    row = family_by_key(key) if key else detect_family(config, files_folder)
    weights = weight_files(files_folder)
    nbytes = sum(path.stat().st_size for path in weights)
    check_config(config, row.key, files_folder / "config.json", nbytes)
    manifest_files = manifest.files if manifest else {}
    for path in weights:
        size = path.stat().st_size
        expected = manifest_files.get(path.name, {}).get("size", size)
        if size != expected:
            raise BadCheckpoint(
                _("{path} has {size:,} bytes, but should have {expected:,}.").format(
                    path=path, size=size, expected=expected
                ),
                _(PULL_AGAIN_HINT),
            )
    for path in (*files_folder.glob("*.model"), *files_folder.glob("tokenizer*.json")):
        check_regular_file(path)
    return ModelInfo(
        name=name or (manifest.name if manifest else str(files_folder)),
        path=files_folder,
        family=row.key,
        context_length=_context_length(config, files_folder),
        nbytes=nbytes,
        stored=manifest.stored if manifest else stored_format(config),
        title=manifest.title if manifest else row.title,
        code=_code_files(config),
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a folder's config.json. Raises BadCheckpoint."""
    path = folder / "config.json"
    if path.is_file():
        config = read_json_object(path)
        for key in CONTEXT_KEYS:
            value = config.get(key)
            if isinstance(value, float) and value.is_integer():  # such as 4096.0
                config[key] = int(value)
        return config
    if any(folder.glob("*.gguf")):
        hint = _(GGUF_HINT)
    else:
        hint = _("A model folder contains config.json, the tokenizer and the weights.")
    raise BadCheckpoint(
        _("{folder} is not a model folder: it has no config.json.").format(folder=folder), hint
    )


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of at most `MAX_JSON_BYTES`. Raises BadCheckpoint."""
    try:
        content = json.loads(read_model_file(path, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(
            _("{path} is not valid JSON: {error}.").format(path=path, error=error),
            _(PULL_AGAIN_HINT),
        ) from error
    if not isinstance(content, dict):
        raise BadCheckpoint(
            _("{path} does not contain a JSON object.").format(path=path), _(PULL_AGAIN_HINT)
        )
    return content


def read_optional_object(path: Path) -> dict[str, Any]:
    """As `read_json_object`; empty if there is no file."""
    return read_json_object(path) if path.is_file() else {}


def read_model_file(path: Path, max_bytes: int) -> bytes:
    """The content of a small file of a model.

    Raises:
        BadCheckpoint: it is too large, not a regular file, a git-lfs pointer, or unreadable.
    """
    try:
        check_regular_file(path)
        if path.stat().st_size > max_bytes:
            raise BadCheckpoint(
                _("{path} is too large: {size:,} bytes.").format(
                    path=path, size=path.stat().st_size
                ),
                _(PULL_AGAIN_HINT),
            )
        return path.read_bytes()
    except OSError as error:
        raise BadCheckpoint(
            _("Cannot read {path}: {reason}.").format(path=path, reason=error.strerror)
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder. Raises BadCheckpoint, as `find_weights` does."""
    return find_weights(folder)[1]


def find_weights(folder: Path) -> tuple[Path | None, list[Path]]:
    """The weight files of a folder: the first complete set of files.

    In the order of transformers: safetensors before .bin files, and a single file before shards.
    Shards without an index are found by their names; an index whose files are missing is skipped if
    another set is complete.

    Returns:
        The index file that maps tensors to files, or None, and the weight files.

    Raises:
        BadCheckpoint: there is no complete set, or its files are git-lfs pointers.
    """
    candidates: list[tuple[Path | None, list[Path]]] = []
    first_error: BadCheckpoint | None = None
    for single, index in zip(SINGLE_FILES, INDEXES, strict=True):
        if (folder / single).is_file():
            candidates.append((None, [folder / single]))
        if (folder / index).is_file():
            try:
                candidates.append((folder / index, _shards_of_index(folder / index)))
            except BadCheckpoint as error:
                first_error = first_error or error
        candidates += [(None, paths) for paths in _numbered_shards(folder, single)]
    for index_file, paths in candidates:
        try:
            _check_complete(folder, paths)
        except BadCheckpoint as error:
            first_error = first_error or error
        else:
            return index_file, paths
    raise first_error or BadCheckpoint(
        _("{folder} contains no weights: no {names}, and no shards of them.").format(
            folder=folder, names=" or ".join(SINGLE_FILES)
        ),
        _(GGUF_HINT) if any(folder.glob("*.gguf")) else _(PULL_AGAIN_HINT),
    )


def _check_complete(folder: Path, paths: list[Path]) -> None:
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        names = ", ".join(missing[:3]) + (", …" if missing[3:] else "")
        raise BadCheckpoint(
            _("{count} of {total} weight files are missing in {folder}: {names}.").format(
                folder=folder, count=len(missing), total=len(paths), names=names
            ),
            _(PULL_AGAIN_HINT),
        )
    for path in paths:
        check_regular_file(path)
        if path.stat().st_size == 0:
            raise BadCheckpoint(_("{path} is empty.").format(path=path), _(PULL_AGAIN_HINT))


def _numbered_shards(folder: Path, single: str) -> list[list[Path]]:
    """Shards named like model-00001-of-00003.safetensors: one list per total number."""
    stem, _dot, suffix = single.partition(".")
    totals = set()
    for path in folder.glob(f"{stem}-*-of-*.{suffix}"):
        match = re.fullmatch(rf"{stem}-\d{{5}}-of-(\d{{5}})\.{suffix}", path.name)
        if match is not None and int(match[1]) <= MAX_SHARDS:
            totals.add(int(match[1]))
    return [
        [folder / f"{stem}-{n:05}-of-{total:05}.{suffix}" for n in range(1, total + 1)]
        for total in sorted(totals)
    ]


def _shards_of_index(index: Path) -> list[Path]:
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadCheckpoint(_("{index} lists no weights.").format(index=index), _(PULL_AGAIN_HINT))
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name:
            raise BadCheckpoint(
                _("{index} lists a file outside its folder: {name!r}.").format(
                    index=index, name=name
                )
            )
    return [index.parent / name for name in names]


def check_regular_file(path: Path) -> None:
    """Raises BadCheckpoint if a path is a git-lfs pointer or not a regular file.

    Opening a named pipe, for example, would block.
    """
    if not path.is_file():
        raise BadCheckpoint(_("{path} is not a file.").format(path=path), _(PULL_AGAIN_HINT))
    if path.stat().st_size > 1024:
        return
    if path.read_bytes().startswith(LFS_POINTER):
        raise BadCheckpoint(
            _("{path} is a git-lfs pointer, not the file itself.").format(path=path),
            _("Run `git lfs install && git lfs pull` in that folder, or use glmtui pull."),
        )


def _context_length(config: Mapping[str, Any], folder: Path) -> int:
    text_config = config.get("text_config")  # in multimodal models
    for fields in (config, text_config if isinstance(text_config, dict) else {}):
        for key in CONTEXT_KEYS:
            value = fields.get(key)
            if isinstance(value, (int, float)) and 0 < value < MAX_CONTEXT_LENGTH:
                return int(value)
    raise BadCheckpoint(
        _("{path} does not give the context length: it has no {key}.").format(
            path=folder / "config.json", key=CONTEXT_KEYS[0]
        )
    )


def _code_files(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The Python files in a config's ``auto_map``, whose values are MODULE.CLASS."""
    auto_map = config.get("auto_map")
    values = auto_map.values() if isinstance(auto_map, dict) else ()
    classes = [name for name in values if isinstance(name, str)]
    return tuple(sorted({f"{name.partition('.')[0][:60]}.py" for name in classes})[:8])


def stored_format(config: Mapping[str, Any]) -> str:
    """Format of the weights according to config.json, such as "int4" or "float16"."""
    bits = config.get("quantization_bit")
    if bits in (4, 8):
        return f"int{bits}"
    # Newer files use "dtype". transformers assumes float32 if both are missing.
    return str(config.get("torch_dtype") or config.get("dtype") or "float32")
