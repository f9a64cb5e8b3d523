"""A model's folder on disk: its config.json, whether its weights are all there, and its manifest.

Reads no tensors and imports no torch. A *manifest* is our own note about a model that was pulled:
beside the files it describes, or, where they belong to someone else (the hub's cache, a folder of
the user's), alone with the path to them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glmtui.engine.api import ModelInfo
from glmtui.engine.catalog.config_check import check_config
from glmtui.engine.catalog.families import FAMILIES, Family, family_of
from glmtui.errors import BadCheckpoint, ModelNotFound, UnsupportedModel
from glmtui.language import N_, _

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLES = ("model.safetensors", "pytorch_model.bin")
MAX_SHARDS = 1000  # a model of a terabyte has some 200
MAX_JSON_BYTES = 64 << 20  # a weight index of thousands of tensors has a few; nothing has more
MAX_PIECES_BYTES = 32 << 20  # of a tokenizer.model; GLM-4's has 2.6 MB
CONTEXT_KEYS = (
    "max_position_embeddings",
    "seq_length",
    "max_sequence_length",
    "n_positions",
    "max_seq_len",
)
MOST_CONTEXT = 2**31
LFS_POINTER = b"version https://git-lfs"
FROM_GGUF = N_("A GGUF file is taken in with: glmtui pull FILE.gguf")
AGAIN = N_("The download is not complete; fetch it again with: glmtui pull")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What we noted about a model when it was pulled.

    Attributes:
        source: where it came from, such as "hub:THUDM/chatglm3-6b".
        stored: how its weights are kept, such as "int4 g32".
        files: size and, where it is known, sha256 of each file.
        path: the folder with its files, if it is not the manifest's own.
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
        content = read_object(path)
        texts = {}
        for key in ("name", "family", "title", "source", "stored"):
            if not isinstance(content.get(key), str):
                raise BadCheckpoint(_("{path} has no {key}.").format(path=path, key=key), _(AGAIN))
            texts[key] = content[key]
        if content.get("format") != MANIFEST_FORMAT:
            raise BadCheckpoint(
                _("{path} is of another glmtui version.").format(path=path), _(AGAIN)
            )
        elsewhere, files = content.get("path"), content.get("files", {})
        if not isinstance(elsewhere, str | None) or not isinstance(files, dict):
            raise BadCheckpoint(_("{path} is damaged.").format(path=path), _(AGAIN))
        return cls(**texts, files=files, path=elsewhere)


def inspect(folder: Path, name: str = "", family: str | None = None) -> ModelInfo:
    """What kind of model a folder holds, and whether all of it is there.

    Args:
        name: what to call it; empty takes its manifest's name or else its path.
        family: a key of `FAMILIES` to take instead of what it looks like.

    Raises:
        ModelNotFound: there is no such folder.
        BadCheckpoint: files are missing, damaged, or only pointers to files; or a number of
            config.json cannot be.
        UnsupportedModel: it is sound but of no family of ours.
    """
    if not folder.is_dir():
        raise ModelNotFound(_("There is no folder {folder}.").format(folder=folder))
    note = Manifest.read(folder) if (folder / MANIFEST).is_file() else None
    where = Path(note.path) if note is not None and note.path is not None else folder
    if not where.is_dir():
        raise BadCheckpoint(
            _("The files of {name} were in {where}, which is gone.").format(
                name=folder.name, where=where
            ),
            _("Fetch them again with: glmtui pull"),
        )
    config = read_config(where)
    key = family or (note.family if note else None)
    row = named_family(key) if key else family_of(config, where)
    weights = weight_files(where)
    nbytes = sum(path.stat().st_size for path in weights)
    check_config(config, row.key, where / "config.json", nbytes)
    noted = note.files if note else {}
    for path in weights:
        size = path.stat().st_size
        expected = noted.get(path.name, {}).get("size", size)
        if size != expected:
            raise BadCheckpoint(
                _("{path} has {size:,} bytes instead of {expected:,}.").format(
                    path=path, size=size, expected=expected
                ),
                _(AGAIN),
            )
    for path in (*where.glob("*.model"), *where.glob("tokenizer*.json")):
        refuse_pointer(path)
    return ModelInfo(
        name=name or (note.name if note else str(where)),
        path=where,
        family=row.key,
        context_length=_context_length(config, where),
        nbytes=nbytes,
        stored=note.stored if note else stored_as(config),
        title=note.title if note else row.title,
        code=_code_named(config),
    )


def named_family(key: str) -> Family:
    """The family of that key. Raises UnsupportedModel."""
    for family in FAMILIES:
        if family.key == key:
            return family
    known = ", ".join(family.key for family in FAMILIES)
    raise UnsupportedModel(
        _("There is no model family {key!r}.").format(key=key),
        _("There are: {known}.").format(known=known),
    )


def read_config(folder: Path) -> dict[str, Any]:
    """A folder's config.json, with lengths of contexts as ints. Raises BadCheckpoint."""
    path = folder / "config.json"
    if path.is_file():
        config = read_object(path)
        for key in CONTEXT_KEYS:
            value = config.get(key)
            if isinstance(value, float) and value.is_integer():  # some programs write 4096.0
                config[key] = int(value)
        return config
    if any(folder.glob("*.gguf")):
        hint = _(FROM_GGUF)
    else:
        hint = _("A model's folder holds config.json, tokenizer and weights.")
    raise BadCheckpoint(
        _("{folder} is no model folder: it has no config.json.").format(folder=folder), hint
    )


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file of bounded size. Raises BadCheckpoint."""
    try:
        content = json.loads(read_small(path, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(
            _("{path} is not JSON: {error}.").format(path=path, error=error), _(AGAIN)
        ) from error
    if not isinstance(content, dict):
        raise BadCheckpoint(_("{path} does not hold a JSON object.").format(path=path), _(AGAIN))
    return content


def read_optional_object(path: Path) -> dict[str, Any]:
    """As `read_object`; empty if there is no file. Raises BadCheckpoint."""
    return read_object(path) if path.is_file() else {}


def read_small(path: Path, most: int) -> bytes:
    """A file of at most `most` bytes that is no pointer to another. Raises BadCheckpoint."""
    try:
        refuse_pointer(path)
        if path.stat().st_size > most:
            raise BadCheckpoint(
                _("{path} is too large: {size:,} bytes.").format(
                    path=path, size=path.stat().st_size
                ),
                _(AGAIN),
            )
        return path.read_bytes()
    except OSError as error:
        raise BadCheckpoint(
            _("Cannot read {path}: {reason}.").format(path=path, reason=error.strerror)
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights, all of them there. Raises as `find_weights`."""
    return find_weights(folder)[1]


def find_weights(folder: Path) -> tuple[Path | None, list[Path]]:
    """Which of a folder's files are its weights: the first kind of which all files are there.

    One file comes before shards, as in transformers, and safetensors before .bin files. An index
    that is left over from other files, or none, does not matter where there are all files.

    Returns:
        The index that names the tensors of each file, if any, and the files.

    Raises:
        BadCheckpoint: none, some missing, or git-lfs pointers in their place.
    """
    found: list[tuple[Path | None, list[Path]]] = []
    fault: BadCheckpoint | None = None
    for single, index in zip(SINGLES, INDEXES, strict=True):
        if (folder / single).is_file():
            found.append((None, [folder / single]))
        if (folder / index).is_file():
            try:
                found.append((folder / index, _shards(folder / index)))
            except BadCheckpoint as error:
                fault = fault or error
        found += [(None, paths) for paths in _numbered(folder, single)]
    for kind, paths in found:
        try:
            _refuse_partial(folder, paths)
        except BadCheckpoint as error:
            fault = fault or error
        else:
            return kind, paths
    raise fault or BadCheckpoint(
        _("{folder} holds no weights: no {names}, whole or in shards.").format(
            folder=folder, names=" or ".join(SINGLES)
        ),
        _(FROM_GGUF) if any(folder.glob("*.gguf")) else _(AGAIN),
    )


def _refuse_partial(folder: Path, paths: list[Path]) -> None:
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        named = ", ".join(missing[:3]) + (", …" if missing[3:] else "")
        raise BadCheckpoint(
            _("{folder} lacks {count} of {total} weight files: {named}.").format(
                folder=folder, count=len(missing), total=len(paths), named=named
            ),
            _(AGAIN),
        )
    for path in paths:
        refuse_pointer(path)
        if path.stat().st_size == 0:
            raise BadCheckpoint(_("{path} is empty.").format(path=path), _(AGAIN))


def _numbered(folder: Path, single: str) -> list[list[Path]]:
    """Shards by their names, such as model-00001-of-00003.safetensors, one list for each total."""
    stem, _dot, ends = single.partition(".")
    totals = set()
    for path in folder.glob(f"{stem}-*-of-*.{ends}"):
        named = re.fullmatch(rf"{stem}-\d{{5}}-of-(\d{{5}})\.{ends}", path.name)
        if named is not None and int(named[1]) <= MAX_SHARDS:
            totals.add(int(named[1]))
    return [
        [folder / f"{stem}-{n:05}-of-{total:05}.{ends}" for n in range(1, total + 1)]
        for total in sorted(totals)
    ]


def _shards(index: Path) -> list[Path]:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadCheckpoint(_("{index} names no weights.").format(index=index), _(AGAIN))
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name:
            raise BadCheckpoint(
                _("{index} names a file outside its folder: {name!r}.").format(
                    index=index, name=name
                )
            )
    return [index.parent / name for name in names]


def refuse_pointer(path: Path) -> None:
    """Raises BadCheckpoint where git left the note about a large file instead of the file, or
    where there is no file at all (a pipe would be waited for)."""
    if not path.is_file():
        raise BadCheckpoint(_("{path} is no file.").format(path=path), _(AGAIN))
    if path.stat().st_size > 1024:
        return
    if path.read_bytes().startswith(LFS_POINTER):
        raise BadCheckpoint(
            _("{path} is a git-lfs pointer, not the file itself.").format(path=path),
            _("Run `git lfs install && git lfs pull` in that folder, or use: glmtui pull"),
        )


def _context_length(config: Mapping[str, Any], folder: Path) -> int:
    inner = config.get("text_config")  # of models that read more than text
    for source in (config, inner if isinstance(inner, dict) else {}):
        for key in CONTEXT_KEYS:
            value = source.get(key)
            if isinstance(value, (int, float)) and 0 < value < MOST_CONTEXT:
                return int(value)
    raise BadCheckpoint(
        _("{path} does not say how long a context may be: no {key}.").format(
            path=folder / "config.json", key=CONTEXT_KEYS[0]
        )
    )


def _code_named(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The files in a config's ``auto_map``, which names classes as MODULE.CLASS."""
    named = config.get("auto_map")
    classes = [c for c in named.values() if isinstance(c, str)] if isinstance(named, dict) else []
    return tuple(sorted({f"{name.partition('.')[0][:60]}.py" for name in classes})[:8])


def stored_as(config: Mapping[str, Any]) -> str:
    """How a checkpoint says its weights are kept."""
    bits = config.get("quantization_bit")
    if bits in (4, 8):
        return f"int{bits}"
    # newer config files say "dtype"; transformers takes float32 where neither is given
    return str(config.get("torch_dtype") or config.get("dtype") or "float32")
