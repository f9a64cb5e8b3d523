"""Checkpoint: the tensors of a folder by name, read one at a time. Knows files, not models.

Reads safetensors and ``torch.load(weights_only=True)`` files, memory-mapped; a quantised weight
comes back as a `PackedWeight` whatever its packing on disk.
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from glmtui.engine.catalog.model_folder import find_weights, read_json_object
from glmtui.engine.checkpoint.gptq import GptqFormat, read_gptq_format, unpack_gptq
from glmtui.engine.nn.packed_weight import PackedWeight, concat_rows
from glmtui.errors import BadCheckpoint
from glmtui.language import N_, _

GPTQ_CONFIG = "quantize_config.json"
ZIP = b"PK\x03\x04"  # what torch.save writes begins so since PyTorch 1.6
ONLY_TENSORS = N_("Only tensors are loaded, never code; fetch the model again, or its safetensors.")
TAR = N_(
    "PyTorch before 0.1.10 wrote it. Where you trust it: load it with torch.load, and save it "
    "again with safetensors.torch.save_file."
)


@dataclass(frozen=True, slots=True, init=False)
class WeightSource:
    """Which checkpoint tensors make one parameter: rows of the first, then of the next, and so on.

    Attributes:
        names: tensors in the checkpoint, concatenated along their first dimension.
        start: how many first rows of the whole to leave out.
    """

    names: tuple[str, ...]
    start: int

    def __init__(self, *names: str, start: int = 0) -> None:
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "start", start)


class Checkpoint:
    """The weights in a folder.

    Args:
        folder: holds safetensors or .bin files, whole or sharded with an index.
        config: its config.json, which tells how other tools' packings are to be read.

    Attributes:
        names_read: names of the tensors asked for so far.

    Raises:
        BadCheckpoint: no weights, an index that does not fit the folder, or a damaged file.
        UnsupportedModel: weights quantised in a way that is not read.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.folder = folder
        self.bits = config.get("quantization_bit") or 0
        self._gptq_format = self._find_gptq(config)
        self.names_read: set[str] = set()
        self._open: dict[Path, Any] = {}
        self._shards = self._find_shards()

    def _find_gptq(self, config: Mapping[str, Any]) -> GptqFormat | None:
        """How GPTQ's weights are packed; None where nothing is said of GPTQ."""
        said = config.get("quantization_config")
        if said is None and (self.folder / GPTQ_CONFIG).is_file():
            said = read_json_object(self.folder / GPTQ_CONFIG)
        return read_gptq_format(said) if isinstance(said, Mapping) else None

    def _find_shards(self) -> dict[str, Path]:
        index, paths = find_weights(self.folder)
        if index is not None:  # its names of files have been looked at
            names = read_json_object(index)["weight_map"]
            return {str(key): self.folder / str(shard) for key, shard in names.items()}
        return {key: path for path in paths for key in self._keys(path)}

    def __contains__(self, name: str) -> bool:
        return name in self._shards

    @property
    def nbytes(self) -> int:
        """Bytes of all weight files."""
        return sum(path.stat().st_size for path in set(self._shards.values()))

    @property
    def names(self) -> set[str]:
        """Of all tensors."""
        return set(self._shards)

    @property
    def shards(self) -> dict[Path, list[str]]:
        """The weight files, each with the names of its tensors."""
        found: dict[Path, list[str]] = {}
        for name, path in self._shards.items():
            found.setdefault(path, []).append(name)
        return found

    def read_tensor(self, name: str) -> Tensor:
        """One tensor as it lies in its file, packed or not. Raises BadCheckpoint."""
        return self._tensor(name)

    def read_weight(self, name: str, start: int = 0) -> Tensor | PackedWeight:
        """One weight as it is stored, on the CPU.

        Args:
            start: first row to read. The rows before it are left in the file: nothing that is
                computed here takes memory for them.

        Raises:
            BadCheckpoint: it is not there, or packed in a way that is not known.
        """
        layer = name.removesuffix(".weight")
        if f"{layer}.qweight" in self:
            return self._gptq(layer)[start:]  # GPTQ packs linear layers alone, never a table
        weight = from_row(start, self._tensor(name))
        if f"{name}.scale" in self:
            scale = from_row(start, self._tensor(f"{name}.scale"))
            zero = self._maybe(f"{name}.zero")
            if zero is not None:
                zero = from_row(start, zero)
            return PackedWeight(weight, scale, zero, self._maybe(f"{name}.order"))
        if f"{name}_scale" in self and weight.dtype == torch.int8:
            scale = from_row(start, self._tensor(f"{name}_scale"))
            return unpack_chatglm(weight, scale, self.bits)
        if not weight.is_floating_point():
            raise BadCheckpoint(
                _(
                    "{name} in {folder} is {kind} without scales, which is no packing "
                    "that is known here."
                ).format(
                    name=name, folder=self.folder, kind=str(weight.dtype).removeprefix("torch.")
                ),
                _("Take the model's own weights, of 16 bits, and load them as int8 or int4."),
            )
        return weight

    def _gptq(self, layer: str) -> PackedWeight:
        if self._gptq_format is None:
            raise BadCheckpoint(
                _(
                    "{folder} has a tensor {layer}.qweight, but neither config.json nor {path} "
                    "says how it is packed."
                ).format(folder=self.folder, layer=layer, path=GPTQ_CONFIG),
                _("Fetch the model again with: glmtui pull"),
            )
        return unpack_gptq(
            self._tensor(f"{layer}.qweight"),
            self._tensor(f"{layer}.qzeros"),
            self._tensor(f"{layer}.scales"),
            self._maybe(f"{layer}.g_idx"),
            self._gptq_format,
        )

    def read_source(self, rows: WeightSource) -> Tensor | PackedWeight:
        """The tensor that `rows` describes; in float32 if its parts are not packed alike."""
        return concat_rows(self.read_parts(rows), torch.float32)

    def read_parts(self, rows: WeightSource) -> list[Tensor | PackedWeight]:
        """The tensors that `rows` describes, without the rows that it leaves out."""
        found: list[Tensor | PackedWeight] = []
        left_out = rows.start
        for i, name in enumerate(rows.names, 1):
            height = self._height(name) if left_out else 0
            if left_out and left_out >= height and i < len(rows.names):
                left_out -= height
                continue
            found.append(self.read_weight(name, left_out))
            left_out = 0
        return found

    def _height(self, name: str) -> int:
        """Rows of one weight, as a rule without unpacking anything."""
        stored = self._tensor(name) if name in self else self.read_weight(name)
        return sum(stored.shape[:1])

    def _maybe(self, name: str) -> Tensor | None:
        return self._tensor(name) if name in self else None

    def _tensor(self, name: str) -> Tensor:
        path = self._shards.get(name)
        if path is None:
            raise BadCheckpoint(
                _("{folder} has no tensor {name}.").format(folder=self.folder, name=name),
                _("The checkpoint is of another model than its config.json says, or incomplete."),
            )
        self.names_read.add(name)
        try:
            file = self._file(path)
            tensor = file.get_tensor(name) if path.suffix == ".safetensors" else file[name]
        except (SafetensorError, KeyError) as error:
            raise BadCheckpoint(
                _("{path} has no readable tensor {name}: {error}").format(
                    path=path, name=name, error=error
                )
            ) from error
        assert isinstance(tensor, Tensor)
        return tensor

    def _keys(self, path: Path) -> list[str]:
        return list(self._file(path).keys())

    def _file(self, path: Path) -> Any:
        if path not in self._open:
            self._open[path] = (
                _open_safetensors(path) if path.suffix == ".safetensors" else _open_bin(path)
            )
        return self._open[path]

    def close(self) -> None:
        """Lets go of the files, and so of the memory that tensors read so far take as part of them.

        A tensor still in use keeps its own; what is asked for next opens its file again.
        """
        self._open.clear()


def from_row(start: int, tensor: Tensor) -> Tensor:
    """A view of the rows from `start` on; a tensor without rows as it is."""
    return tensor[start:] if start and tensor.ndim else tensor


def _open_safetensors(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise BadCheckpoint(
            _("{path} is not a whole safetensors file: {error}").format(path=path, error=error),
            _("Fetch the model again with: glmtui pull"),
        ) from error


def _open_bin(path: Path) -> dict[str, Tensor]:
    """The tensors of a .bin file: mapped, or in memory where it is of before PyTorch 1.6."""
    try:
        with path.open("rb") as file:
            archive = file.read(len(ZIP)) == ZIP
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except Exception as error:  # of many kinds, for a damaged file of before 1.6
        said = str(error).strip() or type(error).__name__
        raise BadCheckpoint(
            _("{path} cannot be read as plain weights: {error}").format(
                path=path, error=said.splitlines()[0]
            ),
            _(TAR) if tarfile.is_tarfile(path) else _(ONLY_TENSORS),
        ) from error
    if not isinstance(state, dict):
        raise BadCheckpoint(
            _("{path} holds a {kind}, not tensors by name.").format(
                path=path, kind=type(state).__name__
            )
        )
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}


def unpack_chatglm(weight: Tensor, scale: Tensor, bits: int) -> PackedWeight:
    """ChatGLM's ``quantize(bits)`` weights in our form, without loss.

    Theirs: int8 [out, in] or, of 4 bits, [out, in / 2] with the even column in the high half of
    each byte, two's complement; one scale per row.
    """
    scale = scale.half().unsqueeze(1)
    if bits != 4:
        return PackedWeight(weight, scale)
    theirs = weight.view(torch.uint8) ^ 0x88  # -8..7 to 0..15 in both halves
    return PackedWeight(theirs >> 4 | theirs << 4, scale, -8 * scale)
