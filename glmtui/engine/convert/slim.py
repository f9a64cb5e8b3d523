"""ChatGLM-6B to ChatGLM-6B-Slim on disk: the rows of image tokens go, ids and tokenizer follow.

Written shard by shard as safetensors, under the original tensor names. The folder appears whole and
checked, or not at all. That the new model answers as the old one did, `slim_check` finds out.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glmtui.engine.catalog.config_check import check_config
from glmtui.engine.catalog.model_folder import inspect_folder, read_config, read_json_object
from glmtui.engine.catalog.registry import CPM_FILE
from glmtui.engine.checkpoint.checkpoint import Checkpoint
from glmtui.engine.checkpoint.safetensors_writer import DTYPES
from glmtui.engine.convert.slim_check import ReplyComparison, compare_replies
from glmtui.engine.models.chatglm import SLIM_PAD_ID, load_config
from glmtui.engine.progress import Progress, ProgressHook
from glmtui.engine.pull.staging import (
    TARGET_SPACE_HINT,
    convert_disk_errors,
    format_bytes,
    require_space,
    work_folder,
)
from glmtui.engine.tokenization.sentencepiece_tokenizer import load_ice_text
from glmtui.errors import BadCheckpoint, ModelError, UnsupportedModel
from glmtui.language import _

VOCAB_TENSORS = tuple(
    f"{table}.{kind}"
    for table in ("transformer.word_embeddings", "lm_head")
    for kind in ("weight", "weight_scale")
)
ID_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id", "gmask_token_id")
TOKENIZER = "ice_text.model"
PIECE_BYTES = 4 << 20  # written, read back and reported at a time
SMALL_BYTES = 16 << 20  # room for the files that hold no weights


class SlimCancelled(ModelError):
    """The person who asked for a Slim model stopped its making."""


@dataclass(frozen=True, slots=True)
class SlimResult:
    """What was made.

    Attributes:
        nbytes: of its weights.
        saved_bytes: of the rows that were left out.
        has_tokenizer: whether the source had a tokenizer file to go on with.
    """

    folder: Path
    nbytes: int
    saved_bytes: int
    has_tokenizer: bool
    checked: ReplyComparison

    @property
    def summary(self) -> str:
        """What was made and what was verified, in a few lines."""
        lines = [
            f"{self.folder} is ready: {format_bytes(self.nbytes)}, "
            f"{format_bytes(self.saved_bytes)} less than before.",
            f"Verified: every weight reads back as the original's, and {self.checked}.",
        ]
        if not self.has_tokenizer:
            lines.append(f"The source has no {TOKENIZER}, so neither has this; it knows ids only.")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Part:
    """One tensor of the new model: the rows of one of the source's, from `start` on."""

    name: str
    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def of(self, source: Checkpoint) -> Tensor:
        tensor = source.read_tensor(self.name)
        return (tensor[self.start :] if self.start else tensor).contiguous()


class _Job:
    """Bytes done so far, told on; stops the work once nobody wants it any more."""

    def __init__(self, on_progress: ProgressHook, cancelled: threading.Event) -> None:
        self._on_progress = on_progress
        self._cancelled = cancelled

    def report(self, what: str, done: int, total: int) -> None:
        if self._cancelled.is_set():
            raise SlimCancelled("Making the Slim model was stopped; nothing of it is left.")
        self._on_progress(Progress(what, done, total))


def convert_to_slim(
    source: Path,
    target: Path,
    *,
    on_progress: ProgressHook = lambda progress: None,
    cancelled: threading.Event | None = None,
) -> SlimResult:
    """Makes ChatGLM-6B-Slim in `target` out of the ChatGLM-6B in `source`.

    Memory holds one shard of the source at a time, mapped, not copied.

    Args:
        source: a folder with ChatGLM-6B of the original vocabulary, quantised or not.
        target: a folder that does not exist yet, or is empty.

    Raises:
        UnsupportedModel: the source is another model, or is slim already.
        BadCheckpoint: its files are missing, damaged or do not fit together; or the new model
            does not answer as the source does.
        DownloadError: the disk is full or may not be written.
        SlimCancelled: `cancelled` was set.
    """
    job = _Job(on_progress, cancelled or threading.Event())
    raw = read_config(source)
    cut = _rows_to_cut(source, raw)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(
            _("{target} is there already.").format(target=target),
            _("Name a folder that is new or empty."),
        )
    checkpoint = Checkpoint(source, raw)
    shards = _plan(checkpoint, raw["vocab_size"], cut)
    nbytes = sum(part.nbytes for parts in shards.values() for part in parts)
    with convert_disk_errors(target, _(TARGET_SPACE_HINT)), work_folder(target) as work:
        require_space(work, nbytes + SMALL_BYTES, _("the Slim model"), _(TARGET_SPACE_HINT))
        folder = work / "model"
        folder.mkdir()
        _write_small_files(source, folder, raw, cut)
        _write_weights(checkpoint, folder, shards, nbytes, job)
        inspect_folder(folder)
        checked = compare_replies(source, folder, job.report)
        folder.replace(target)
    row_bytes = sum(
        part.start * part.nbytes // part.shape[0] for parts in shards.values() for part in parts
    )
    return SlimResult(target, nbytes, row_bytes, (target / TOKENIZER).is_file(), checked)


def _rows_to_cut(source: Path, raw: Mapping[str, Any]) -> int:
    if raw.get("model_type") != "chatglm" or "inner_hidden_size" not in raw:
        raise UnsupportedModel(
            _(
                "{source} is no ChatGLM-6B; only its first vocabulary has image tokens "
                "to leave out."
            ).format(source=source),
            _("ChatGLM2 and later models are as small as they get."),
        )
    check_config(raw, "chatglm", source / "config.json")
    config = load_config(raw)
    if not config.image_rows:
        raise UnsupportedModel(
            _(
                "{source} is slim already: its vocabulary of {vocabulary:,} has no image tokens."
            ).format(source=source, vocabulary=config.vocab),
            _("Use it as it is."),
        )
    return config.image_rows


def _plan(checkpoint: Checkpoint, vocab: int, cut: int) -> dict[Path, list[_Part]]:
    """Which parts each new shard has, by the old one it is made of. Reads no weights."""
    plan: dict[Path, list[_Part]] = {}
    for path, names in sorted(checkpoint.shards.items()):
        plan[path] = [
            _part(name, checkpoint.read_tensor(name), vocab, cut) for name in sorted(names)
        ]
        checkpoint.close()
    if VOCAB_TENSORS[0] not in checkpoint:
        raise BadCheckpoint(
            _("{folder} has no tensor {name}.").format(
                folder=checkpoint.folder, name=VOCAB_TENSORS[0]
            )
        )
    return plan


def _part(name: str, tensor: Tensor, vocab: int, cut: int) -> _Part:
    if name not in VOCAB_TENSORS:
        return _Part(name, 0, tensor.dtype, tuple(tensor.shape))
    rows, *columns = tensor.shape
    if rows != vocab:
        raise BadCheckpoint(
            _("{name} has {rows:,} rows; config.json says that there are {vocab:,} tokens.").format(
                name=name, rows=rows, vocab=vocab
            ),
            _("config.json and weights are not of the same model; fetch it again."),
        )
    return _Part(name, cut, tensor.dtype, (rows - cut, *columns))


# ---- files


def _write_small_files(source: Path, folder: Path, raw: Mapping[str, Any], cut: int) -> None:
    """Everything but the weights."""
    marks = load_config(raw).marks
    # the first releases had these in their code alone; code that never set the padding says 0
    config = {**raw, "mask_token_id": marks.mask, "gmask_token_id": marks.gmask}
    config["pad_token_id"] = max(raw.get("pad_token_id") or 0, SLIM_PAD_ID + cut)
    config = {**_shifted(config, cut), "vocab_size": raw["vocab_size"] - cut}
    _write_json(folder / "config.json", config)
    if (source / "generation_config.json").is_file():
        recommended = read_json_object(source / "generation_config.json")
        _write_json(folder / "generation_config.json", _shifted(recommended, cut))
    processor = load_ice_text(source / TOKENIZER)
    if processor is not None:
        (folder / TOKENIZER).write_bytes(processor.serialized())
        settings = source / "tokenizer_config.json"
        known_settings = read_json_object(settings) if settings.is_file() else {}
        _write_json(folder / settings.name, {**known_settings, "num_image_tokens": 0})
    for path in (*source.glob("*LICENSE*"), *source.glob(CPM_FILE)):
        shutil.copyfile(path, folder / path.name)


def _shifted(config: Mapping[str, Any], cut: int) -> dict[str, Any]:
    """A config with its token ids in the Slim vocabulary."""
    ids = {key: config.get(key) for key in ID_KEYS}
    return {**config, **{k: i - cut for k, i in ids.items() if isinstance(i, int) and i >= cut}}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def _write_weights(
    checkpoint: Checkpoint, folder: Path, shards: Mapping[Path, list[_Part]], total: int, job: _Job
) -> None:
    done = 0
    weight_map: dict[str, str] = {}
    for n, parts in enumerate(shards.values(), 1):
        many = len(shards) > 1
        name = f"model-{n:05}-of-{len(shards):05}.safetensors" if many else "model.safetensors"
        for size in _write_shard(checkpoint, folder / name, parts):
            done += size
            job.report(_("writing {name}").format(name=name), done, 2 * total)
        for size in _read_back(checkpoint, folder / name, parts):
            done += size
            job.report(_("reading {name} back").format(name=name), done, 2 * total)
        checkpoint.close()  # lets go of the shard's memory
        weight_map |= {part.name: name for part in parts}
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(folder / "model.safetensors.index.json", index)


def _write_shard(checkpoint: Checkpoint, path: Path, parts: list[_Part]) -> Iterator[int]:
    """Writes one safetensors file; yields how many bytes of weights as they are written.

    `safetensors.torch.save_file` would copy the whole shard first.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for part in parts:
        start, end = end, end + part.nbytes
        described = {"dtype": DTYPES[part.dtype], "shape": part.shape, "data_offsets": [start, end]}
        header[part.name] = described
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for part in parts:
            for piece in _pieces(part.of(checkpoint)):
                file.write(piece)
                yield len(piece)
        file.flush()
        os.fsync(file.fileno())


def _read_back(checkpoint: Checkpoint, path: Path, parts: list[_Part]) -> Iterator[int]:
    """Compares a written shard with the source; yields how many bytes have been seen."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        file.seek(8 + length)
        for part in parts:
            for piece in _pieces(part.of(checkpoint)):
                if file.read(len(piece)) != piece:
                    raise BadCheckpoint(
                        _("{name} did not read back from {file} as it was written.").format(
                            name=part.name, file=path.name
                        ),
                        _("The disk is not to be trusted; try another."),
                    )
                yield len(piece)


def _pieces(tensor: Tensor) -> Iterator[memoryview]:
    """The bytes of a tensor, some at a time, where they lie."""
    data = tensor.reshape(-1).view(torch.uint8).numpy().data
    for start in range(0, len(data), PIECE_BYTES):
        yield data[start : start + PIECE_BYTES]
