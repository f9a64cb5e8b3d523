"""Checkpoint: the tensors of a model folder by name, read one at a time.

Reads safetensors and ``torch.load(weights_only=True)`` files, memory-mapped. A quantised weight
becomes a `PackedWeight`, whatever its packing on disk.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Mapping, Sequence
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
ZIP_MAGIC = b"PK\x03\x04"  # first bytes of a file that torch.save of PyTorch 1.6 or later wrote
ONLY_TENSORS = N_(
    "Only tensors are loaded, never code. Fetch the model again, or its safetensors version."
)
TAR_FILE = N_(
    "PyTorch before 0.1.10 wrote it. If you trust it, load it with torch.load and save it again "
    "with safetensors.torch.save_file."
)


@dataclass(frozen=True, slots=True, init=False)
class WeightSource:
    """The checkpoint tensors that make one parameter of a model.

    Attributes:
        names: of the tensors, which are concatenated along their first dimension.
        start: how many of the first rows of the result to leave out.
    """

    names: tuple[str, ...]
    start: int

    def __init__(self, *names: str, start: int = 0) -> None:
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "start", start)

    def __str__(self) -> str:
        return " + ".join(self.names)


class Checkpoint:
    """The weights in a folder.

    Args:
        folder: with safetensors or .bin files, single or sharded.
        config: its config.json, which says how quantised weights are packed.

    Attributes:
        names_read: the tensors read so far.

    Raises:
        BadCheckpoint: there are no weights, the index does not match the files, or a file is
            damaged.
        UnsupportedModel: the weights are quantised in an unsupported way.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.folder = folder
        self.bits = config.get("quantization_bit") or 0
        self._gptq_format = self._find_gptq_format(config)
        self.names_read: set[str] = set()
        self._open: dict[Path, Any] = {}
        self._shards = self._find_shards()

    def _find_gptq_format(self, config: Mapping[str, Any]) -> GptqFormat | None:
        """How GPTQ weights are packed; None if the folder has no quantisation config.

        Every ``quantization_config`` is read as GPTQ's, because no other method that has one is
        supported: `read_gptq_format` refuses those by name.
        """
        quantization = config.get("quantization_config")
        if quantization is None and (self.folder / GPTQ_CONFIG).is_file():
            quantization = read_json_object(self.folder / GPTQ_CONFIG)
        return read_gptq_format(quantization) if isinstance(quantization, Mapping) else None

    def _find_shards(self) -> dict[str, Path]:
        index, paths = find_weights(self.folder)
        if index is not None:  # `find_weights` has checked its file names
            names = read_json_object(index)["weight_map"]
            return {str(key): self.folder / str(shard) for key, shard in names.items()}
        return {key: path for path in paths for key in self._open_file(path).keys()}  # noqa: SIM118

    def __contains__(self, name: str) -> bool:
        return name in self._shards

    @property
    def nbytes(self) -> int:
        """Size of all weight files."""
        return sum(path.stat().st_size for path in set(self._shards.values()))

    @property
    def names(self) -> set[str]:
        """The names of all tensors."""
        return set(self._shards)

    @property
    def shards(self) -> dict[Path, list[str]]:
        """The weight files, each with the names of its tensors."""
        found: dict[Path, list[str]] = {}
        for name, path in self._shards.items():
            found.setdefault(path, []).append(name)
        return found

    def read_tensor(self, name: str) -> Tensor:
        """One tensor exactly as it is in its file, packed or not. Raises BadCheckpoint."""
        path = self._shards.get(name)
        if path is None:
            raise BadCheckpoint(
                _("{folder} has no tensor {name}.").format(folder=self.folder, name=name),
                _("The checkpoint is incomplete, or belongs to another model than config.json."),
            )
        self.names_read.add(name)
        try:
            file = self._open_file(path)
            tensor = file.get_tensor(name) if path.suffix == ".safetensors" else file[name]
        except (SafetensorError, KeyError) as error:
            raise BadCheckpoint(
                _("{path} has no readable tensor {name}: {error}").format(
                    path=path, name=name, error=error
                )
            ) from error
        assert isinstance(tensor, Tensor)
        return tensor

    def _read_optional(self, name: str) -> Tensor | None:
        return self.read_tensor(name) if name in self else None

    def read_weight(self, name: str, start: int = 0) -> Tensor | PackedWeight:
        """One weight with its scales and zero points, on the CPU.

        Args:
            start: first row to read. Earlier rows stay in the file and take no memory.

        Raises:
            BadCheckpoint: it is missing, or packed in an unknown way.
        """
        layer = name.removesuffix(".weight")
        if f"{layer}.qweight" in self:
            return self._read_gptq(layer)[start:]  # only linear layers, whose start is always 0
        weight = skip_rows(self.read_tensor(name), start)
        if f"{name}.scale" in self:
            scale = skip_rows(self.read_tensor(f"{name}.scale"), start)
            zero = self._read_optional(f"{name}.zero")
            if zero is not None:
                zero = skip_rows(zero, start)
            return PackedWeight(weight, scale, zero, self._read_optional(f"{name}.order"))
        if f"{name}_scale" in self and weight.dtype == torch.int8:
            scale = skip_rows(self.read_tensor(f"{name}_scale"), start)
            return unpack_chatglm(weight, scale, self.bits)
        if not weight.is_floating_point():
            raise BadCheckpoint(
                _(
                    "{name} in {folder} has dtype {kind} but no scales. This packing is not "
                    "supported."
                ).format(
                    name=name, folder=self.folder, kind=str(weight.dtype).removeprefix("torch.")
                ),
                _("Use the model's 16-bit weights, and load them as int8 or int4."),
            )
        return weight

    def _read_gptq(self, layer: str) -> PackedWeight:
        if self._gptq_format is None:
            raise BadCheckpoint(
                _(
                    "{folder} has a tensor {layer}.qweight, but neither config.json nor {path} "
                    "says how it is packed."
                ).format(folder=self.folder, layer=layer, path=GPTQ_CONFIG),
                _("Download the model again with: glmtui pull"),
            )
        return unpack_gptq(
            self.read_tensor(f"{layer}.qweight"),
            self.read_tensor(f"{layer}.qzeros"),
            self.read_tensor(f"{layer}.scales"),
            self._read_optional(f"{layer}.g_idx"),
            self._gptq_format,
        )

    def read_source(
        self,
        source: WeightSource,
        *,
        shape: Sequence[int] | None = None,
        convert: Callable[[Tensor | PackedWeight], Tensor | PackedWeight] = lambda part: part,
        fallback_dtype: torch.dtype = torch.float32,
    ) -> Tensor | PackedWeight:
        """The tensors of a parameter, joined.

        Args:
            shape: that the parameter must have; None to accept any.
            convert: applied to each tensor before they are joined, for example to move it to a
                device.
            fallback_dtype: of the result if the tensors are packed differently, and therefore have
                to be unpacked.

        Raises:
            BadCheckpoint: a tensor is missing, or the shape differs.
        """
        parts = self._read_parts(source)
        if shape is not None:
            self._check_shape(source, parts, tuple(shape))
        return concat_rows([convert(part) for part in parts], fallback_dtype)

    def _read_parts(self, source: WeightSource) -> list[Tensor | PackedWeight]:
        """The tensors of a parameter, without the rows that it leaves out."""
        found: list[Tensor | PackedWeight] = []
        to_skip = source.start
        for i, name in enumerate(source.names, 1):
            rows = self._count_rows(name) if to_skip else 0
            if to_skip and to_skip >= rows and i < len(source.names):
                to_skip -= rows
                continue
            found.append(self.read_weight(name, to_skip))
            to_skip = 0
        return found

    def _count_rows(self, name: str) -> int:
        """Rows of one weight; unpacks it only if it is packed by GPTQ."""
        stored = self.read_tensor(name) if name in self else self.read_weight(name)
        return sum(stored.shape[:1])

    def _check_shape(
        self,
        source: WeightSource,
        parts: Sequence[Tensor | PackedWeight],
        expected: tuple[int, ...],
    ) -> None:
        shapes = [tuple(part.shape) for part in parts]
        rows = sum(shape[0] for shape in shapes if shape)
        if rows != expected[0] or any(shape[1:] != expected[1:] for shape in shapes):
            raise BadCheckpoint(
                _("{tensor} in {folder} has shape {found}; config.json requires {wanted}.").format(
                    tensor=source,
                    folder=self.folder,
                    found=" + ".join(map(str, shapes)),
                    wanted=expected,
                ),
                _("config.json and the weights belong to different models. Fetch the model again."),
            )

    def _open_file(self, path: Path) -> Any:
        if path not in self._open:
            is_safetensors = path.suffix == ".safetensors"
            self._open[path] = _open_safetensors(path) if is_safetensors else _open_bin(path)
        return self._open[path]

    def close(self) -> None:
        """Closes the files, and so releases the memory of mapped tensors that are no longer used.

        Tensors that are still in use stay valid; the next read opens its file again.
        """
        self._open.clear()


def skip_rows(tensor: Tensor, count: int) -> Tensor:
    """A view without the first rows; a tensor without dimensions is returned unchanged."""
    return tensor[count:] if count and tensor.ndim else tensor


def _open_safetensors(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise BadCheckpoint(
            _("{path} is not a complete safetensors file: {error}").format(path=path, error=error),
            _("Download the model again with: glmtui pull"),
        ) from error


def _open_bin(path: Path) -> dict[str, Tensor]:
    """The tensors of a .bin file: memory-mapped, or read if PyTorch before 1.6 wrote it."""
    try:
        with path.open("rb") as file:
            is_zip = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # a damaged file of the old format raises almost anything
        reason = str(error).strip() or type(error).__name__
        raise BadCheckpoint(
            _("{path} cannot be read as plain weights: {error}").format(
                path=path, error=reason.splitlines()[0]
            ),
            _(TAR_FILE) if tarfile.is_tarfile(path) else _(ONLY_TENSORS),
        ) from error
    if not isinstance(state, dict):
        raise BadCheckpoint(
            _("{path} contains a {kind} instead of named tensors.").format(
                path=path, kind=type(state).__name__
            )
        )
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}


def unpack_chatglm(weight: Tensor, scale: Tensor, bits: int) -> PackedWeight:
    """Converts a weight that ChatGLM's ``quantize(bits)`` packed, without loss.

    Args:
        weight: int8 [out, in]; for 4 bits int8 [out, in / 2] with the even column in the high
            half of each byte, in two's complement.
        scale: [out].
    """
    scale = scale.half().unsqueeze(1)
    if bits != 4:
        return PackedWeight(weight, scale)
    shifted = weight.view(torch.uint8) ^ 0x88  # -8..7 becomes 0..15 in both halves
    return PackedWeight(shifted >> 4 | shifted << 4, scale, -8 * scale)
