"""convert_to_slim: makes ChatGLM-6B-Slim from ChatGLM-6B, without the rows of the image tokens.

Written shard by shard as safetensors, under the original tensor names. The folder appears complete
and verified (see `slim_check`), or not at all.
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
from glmtui.engine.catalog.quants import CPM_FILE
from glmtui.engine.checkpoint.checkpoint import Checkpoint
from glmtui.engine.checkpoint.safetensors_header import TensorEntry, encode_header
from glmtui.engine.checkpoint.safetensors_writer import DTYPES
from glmtui.engine.convert.slim_check import ReplyComparison, Report, compare_replies
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

VOCAB_TENSORS = tuple(  # their rows are tokens
    f"{table}.{kind}"
    for table in ("transformer.word_embeddings", "lm_head")
    for kind in ("weight", "weight_scale")
)
ID_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id", "gmask_token_id")
TOKENIZER = "ice_text.model"
CHUNK_BYTES = 4 << 20  # written or compared between two progress reports
SMALL_FILES_BYTES = 16 << 20  # upper limit of all files without weights, for the disk space check


class SlimCancelled(ModelError):
    """The conversion was cancelled."""


@dataclass(frozen=True, slots=True)
class SlimResult:
    """The model that was made.

    Attributes:
        nbytes: size of its weights.
        saved_bytes: size of the removed rows.
        has_tokenizer: whether the source has a tokenizer file.
    """

    folder: Path
    nbytes: int
    saved_bytes: int
    has_tokenizer: bool
    comparison: ReplyComparison

    @property
    def summary(self) -> str:
        """What was made and verified, for the command line."""
        lines = [
            f"{self.folder} is ready: {format_bytes(self.nbytes)}, "
            f"{format_bytes(self.saved_bytes)} less than before.",
            f"Verified: all weights equal the original's, and {self.comparison}.",
        ]
        if not self.has_tokenizer:
            lines.append(
                f"The source has no {TOKENIZER}, so the new model works with token ids only."
            )
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _SlimTensor:
    """One tensor of the new model: the rows of the source's tensor from `start` on."""

    name: str
    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def read_from(self, source: Checkpoint) -> Tensor:
        tensor = source.read_tensor(self.name)
        return (tensor[self.start :] if self.start else tensor).contiguous()


def convert_to_slim(
    source: Path,
    target: Path,
    *,
    on_progress: ProgressHook = lambda progress: None,
    cancelled: threading.Event | None = None,
) -> SlimResult:
    """Writes ChatGLM-6B-Slim into `target`.

    One shard of the source is memory-mapped at a time.

    Args:
        source: a folder with a ChatGLM-6B that has image tokens, quantised or not.
        target: a folder that does not exist yet, or is empty.

    Raises:
        UnsupportedModel: the source is another model, or already slim.
        ModelError: `target` is not empty.
        BadCheckpoint: files of the source are missing, damaged or inconsistent; or the new model's
            replies differ from the source's.
        DownloadError: the disk is full or not writable.
        SlimCancelled: `cancelled` was set.
    """

    def report(what: str, done: int, total: int) -> None:
        if cancelled is not None and cancelled.is_set():
            raise SlimCancelled("Making the Slim model was stopped; no files are left of it.")
        on_progress(Progress(what, done, total))

    raw = read_config(source)
    cut = _count_image_rows(source, raw)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(
            _("{target} exists already.").format(target=target),
            _("Choose a new or an empty folder."),
        )
    checkpoint = Checkpoint(source, raw)
    shards = _plan_shards(checkpoint, raw["vocab_size"], cut)
    nbytes = sum(tensor.nbytes for tensors in shards.values() for tensor in tensors)
    with convert_disk_errors(target, _(TARGET_SPACE_HINT)), work_folder(target) as work:
        require_space(work, nbytes + SMALL_FILES_BYTES, _("the Slim model"), _(TARGET_SPACE_HINT))
        folder = work / "model"
        folder.mkdir()
        _write_small_files(source, folder, raw, cut)
        _write_weights(checkpoint, folder, shards, nbytes, report)
        inspect_folder(folder)
        comparison = compare_replies(source, folder, report)
        folder.replace(target)
    saved_bytes = sum(
        tensor.start * tensor.nbytes // tensor.shape[0]
        for tensors in shards.values()
        for tensor in tensors
    )
    return SlimResult(target, nbytes, saved_bytes, (target / TOKENIZER).is_file(), comparison)


def _count_image_rows(source: Path, raw: Mapping[str, Any]) -> int:
    if raw.get("model_type") != "chatglm" or "inner_hidden_size" not in raw:
        raise UnsupportedModel(
            _(
                "{source} is not a ChatGLM-6B. Only the vocabulary of ChatGLM-6B has image tokens "
                "that can be removed."
            ).format(source=source),
            _("ChatGLM2 and later models cannot be made smaller this way."),
        )
    check_config(raw, "chatglm", source / "config.json")
    config = load_config(raw)
    if not config.image_rows:
        raise UnsupportedModel(
            _(
                "{source} is already slim: its vocabulary of {vocabulary:,} has no image tokens."
            ).format(source=source, vocabulary=config.vocab),
            _("Use it as it is."),
        )
    return config.image_rows


def _plan_shards(checkpoint: Checkpoint, vocab: int, cut: int) -> dict[Path, list[_SlimTensor]]:
    """The tensors of each new shard, by the old shard. Maps the weights but does not read them."""
    plan: dict[Path, list[_SlimTensor]] = {}
    for path, names in sorted(checkpoint.shards.items()):
        plan[path] = [
            _plan_tensor(name, checkpoint.read_tensor(name), vocab, cut) for name in sorted(names)
        ]
        checkpoint.close()
    if VOCAB_TENSORS[0] not in checkpoint:
        raise BadCheckpoint(
            _("{folder} has no tensor {name}.").format(
                folder=checkpoint.folder, name=VOCAB_TENSORS[0]
            )
        )
    return plan


def _plan_tensor(name: str, tensor: Tensor, vocab: int, cut: int) -> _SlimTensor:
    if name not in VOCAB_TENSORS:
        return _SlimTensor(name, 0, tensor.dtype, tuple(tensor.shape))
    rows, *columns = tensor.shape
    if rows != vocab:
        raise BadCheckpoint(
            _(
                "{name} has {rows:,} rows, but config.json has a vocabulary of {vocab:,} tokens."
            ).format(name=name, rows=rows, vocab=vocab),
            _("config.json and the weights belong to different models. Fetch the model again."),
        )
    return _SlimTensor(name, cut, tensor.dtype, (rows - cut, *columns))


# ---- files


def _write_small_files(source: Path, folder: Path, raw: Mapping[str, Any], cut: int) -> None:
    """Writes everything but the weights, with token ids of the new vocabulary."""
    marks = load_config(raw).markers
    # The first releases have these ids only in their code; where it sets no padding id, it is 0.
    config = {**raw, "mask_token_id": marks.mask, "gmask_token_id": marks.gmask}
    config["pad_token_id"] = max(raw.get("pad_token_id") or 0, SLIM_PAD_ID + cut)
    config = {**_shift_ids(config, cut), "vocab_size": raw["vocab_size"] - cut}
    _write_json(folder / "config.json", config)
    if (source / "generation_config.json").is_file():
        recommended = read_json_object(source / "generation_config.json")
        _write_json(folder / "generation_config.json", _shift_ids(recommended, cut))
    processor = load_ice_text(source / TOKENIZER)
    if processor is not None:
        (folder / TOKENIZER).write_bytes(processor.serialize())
        settings = source / "tokenizer_config.json"
        known_settings = read_json_object(settings) if settings.is_file() else {}
        _write_json(folder / settings.name, {**known_settings, "num_image_tokens": 0})
    for path in (*source.glob("*LICENSE*"), *source.glob(CPM_FILE)):
        shutil.copyfile(path, folder / path.name)


def _shift_ids(config: Mapping[str, Any], cut: int) -> dict[str, Any]:
    """A config with its token ids converted to the new vocabulary."""
    ids = {key: config.get(key) for key in ID_KEYS}
    return {**config, **{k: i - cut for k, i in ids.items() if isinstance(i, int) and i >= cut}}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def _write_weights(
    checkpoint: Checkpoint,
    folder: Path,
    shards: Mapping[Path, list[_SlimTensor]],
    total: int,
    report: Report,
) -> None:
    done = 0
    weight_map: dict[str, str] = {}
    for n, tensors in enumerate(shards.values(), 1):
        is_sharded = len(shards) > 1
        shard_name = f"model-{n:05}-of-{len(shards):05}.safetensors"
        name = shard_name if is_sharded else "model.safetensors"
        for size in _write_shard(checkpoint, folder / name, tensors):
            done += size
            report(_("writing {name}").format(name=name), done, 2 * total)
        for size in _verify_shard(checkpoint, folder / name, tensors):
            done += size
            report(_("reading {name} back").format(name=name), done, 2 * total)
        checkpoint.close()  # releases the mapped memory of the shard
        weight_map |= {tensor.name: name for tensor in tensors}
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(folder / "model.safetensors.index.json", index)


def _write_shard(checkpoint: Checkpoint, path: Path, tensors: list[_SlimTensor]) -> Iterator[int]:
    """Writes one safetensors file; yields the size of each chunk of weights."""
    entries = [TensorEntry(t.name, DTYPES[t.dtype], t.shape, t.nbytes) for t in tensors]
    with path.open("wb") as file:
        file.write(encode_header(entries))
        for tensor in tensors:
            for chunk in _chunks(tensor.read_from(checkpoint)):
                file.write(chunk)
                yield len(chunk)
        file.flush()
        os.fsync(file.fileno())


def _verify_shard(checkpoint: Checkpoint, path: Path, tensors: list[_SlimTensor]) -> Iterator[int]:
    """Compares a written shard with the source; yields the size of each compared chunk."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        file.seek(8 + length)
        for tensor in tensors:
            for chunk in _chunks(tensor.read_from(checkpoint)):
                if file.read(len(chunk)) != chunk:
                    raise BadCheckpoint(
                        _("{name} in {file} differs from what was written.").format(
                            name=tensor.name, file=path.name
                        ),
                        _("The disk may be faulty. Use another one."),
                    )
                yield len(chunk)


def _chunks(tensor: Tensor) -> Iterator[memoryview]:
    """The bytes of a contiguous tensor, without a copy."""
    data = tensor.reshape(-1).view(torch.uint8).numpy().data
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]
