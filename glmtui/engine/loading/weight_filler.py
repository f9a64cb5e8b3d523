"""Placer: fills a model built on the meta device from a checkpoint, one module at a time.

A module's tensors are read, converted on the device that will hold them, and let go of before the
next is looked at, so that memory peaks little above what the model ends up with. Knows modules and
how weights are to be held; of files only `weights.Checkpoint`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from glmtui.engine.catalog.registry import Quant
from glmtui.engine.checkpoint.checkpoint import Checkpoint, WeightSource
from glmtui.engine.nn.layers import LinearPlaceholder
from glmtui.engine.nn.linear import (
    CpuInt8Linear,
    KernelChoice,
    NativeEmbedding,
    can_stay_packed,
    make_head,
    make_kernel_choice,
    make_linear,
)
from glmtui.engine.nn.packed_weight import PackedWeight, concat_rows, quantize, to_dense
from glmtui.engine.progress import Progress, ProgressHook
from glmtui.errors import BadCheckpoint
from glmtui.language import _

VOCAB_MODULES = ("embedding", "head")  # what every family calls them
# constants that older checkpoints store, and the head of models whose head is the embedding
NEEDLESS = re.compile(r"inv_freq$|lm_head\.weight(_scale)?$")

logger = logging.getLogger(__name__)


class WeightFiller:
    """Fills one model.

    Args:
        model: on the meta device, linear layers as `LinearPlaceholder`s.
        device, dtype: of the weights that are not packed, and of the activations.
        places: of parts that are on another device, by the beginning of their path: "layers.3".
        quant: how linear layers are to be held: packed like this, "auto" for as they are stored,
            or None for whole.
        choice: of kernels on a GPU; left out, all that there are.

    Attributes:
        quants: kinds of packed weights there are, such as "int4 g32".
        nbytes: memory of the weights placed.
    """

    def __init__(
        self,
        model: nn.Module,
        checkpoint: Checkpoint,
        device: torch.device,
        dtype: torch.dtype,
        quant: Quant | Literal["auto"] | None,
        choice: KernelChoice | None = None,
        places: Mapping[str, torch.device] | None = None,
    ) -> None:
        self.model = model
        self.checkpoint = checkpoint
        self.device = device  # of what is being placed
        self._places = places or {}
        self.dtype = dtype
        self.quant = quant
        self.choice = choice or make_kernel_choice("auto", checkpoint.folder, device, dtype)
        self.quants: set[str] = set()
        self.nbytes = 0
        self._tables: dict[WeightSource, Tensor | PackedWeight] = {}

    def place_all(self, sources: Mapping[str, WeightSource], on_progress: ProgressHook) -> None:
        """Reads, converts and places every parameter that `sources` names.

        Args:
            on_progress: called between modules; what it raises ends the work there.

        Raises:
            BadCheckpoint: a tensor is missing, of another shape, or would be left out wrongly.
        """
        modules = [
            (path, module, {n: p.shape for n, p in module.named_parameters(recurse=False)})
            for path, module in self.model.named_modules()
        ]
        # tables first: they take the most beside themselves, and nothing else is there yet
        modules.sort(key=lambda entry: entry[0] not in VOCAB_MODULES)
        nbytes = self.checkpoint.nbytes
        total = sum(p.numel() for p in self.model.parameters())
        done = 0
        for path, module, shapes in modules:
            on_progress(Progress(_("loading"), nbytes * done // total, nbytes))
            self.device = self._places.get(".".join(path.split(".")[:2]), self.device)
            wanted = {name: sources[f"{path}.{name}"] for name in shapes}
            if path in VOCAB_MODULES:
                self._place_table(path, module, wanted["weight"], shapes["weight"])
            elif isinstance(module, LinearPlaceholder):
                self._place_linear(path, wanted, shapes)
            else:
                self._place_plain(module, wanted, shapes)
            self.checkpoint.close()
            done += sum(shape.numel() for shape in shapes.values())
        self._check_unread()
        on_progress(Progress(_("loading"), nbytes, nbytes))

    def _place_linear(
        self, path: str, wanted: Mapping[str, WeightSource], shapes: Mapping[str, torch.Size]
    ) -> None:
        weight = self._read(wanted["weight"], shapes["weight"], self._held)
        bias = None
        if "bias" in wanted:
            bias = self._plain(wanted["bias"], shapes["bias"], self.dtype)
        linear = make_linear(weight, bias, self.dtype, self.choice)
        if isinstance(weight, PackedWeight):  # which may have been rounded to a scale per row
            self.quants.add("int8" if isinstance(linear, CpuInt8Linear) else weight.kind)
        self.nbytes += linear.nbytes
        self._install(path, linear)

    def _place_plain(
        self,
        module: nn.Module,
        wanted: Mapping[str, WeightSource],
        shapes: Mapping[str, torch.Size],
    ) -> None:
        """Norms. A CPU works on them in float32."""
        dtype = torch.float32 if self.device.type == "cpu" else self.dtype
        for name, rows in wanted.items():
            tensor = self._plain(rows, shapes[name], dtype)
            setattr(module, name, nn.Parameter(tensor, requires_grad=False))
            self.nbytes += tensor.nbytes

    def _place_table(
        self, path: str, module: nn.Module, rows: WeightSource, shape: torch.Size
    ) -> None:
        """The embedding or the head, never below 8 bits; where both are one tensor, held once."""
        table = self._tables.get(rows)
        if table is None:
            table = self._tables[rows] = self._read(rows, shape, self._held_table)
            self.nbytes += table.nbytes
        if isinstance(module, LinearPlaceholder):
            self._install(path, make_head(table, self.dtype))
        elif isinstance(table, PackedWeight):
            self._install(path, NativeEmbedding(table))
        else:
            module.weight = nn.Parameter(table, requires_grad=False)

    def _held_table(self, stored: Tensor | PackedWeight) -> Tensor | PackedWeight:
        if self.quant is not None and can_stay_packed(stored, self.dtype):
            return stored
        return to_dense(stored, self._table_dtype(stored))

    def _table_dtype(self, stored: Tensor | PackedWeight) -> torch.dtype:
        """float16, not bfloat16, on a CPU if that loses nothing: it is twice as fast there."""
        halves = isinstance(stored, PackedWeight) or stored.dtype == torch.float16
        if self.device.type == "cpu" and self.dtype == torch.bfloat16 and halves:
            return torch.float16
        return self.dtype

    def _held(self, weight: Tensor | PackedWeight) -> Tensor | PackedWeight:
        """A linear layer's weight, or a part of it, as it is to be held."""
        if isinstance(weight, PackedWeight) and self.quant == "auto":
            return weight
        if not isinstance(self.quant, Quant):
            return to_dense(weight, self.dtype)
        if isinstance(weight, PackedWeight):
            if weight.bits == self.quant.bits:
                return weight
            weight = weight.dequantize(torch.float32)
        return quantize(weight, self.quant.bits, self.quant.group)

    def _plain(self, rows: WeightSource, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """A parameter that is never packed."""
        tensor = self._read(rows, shape, lambda part: part)
        if isinstance(tensor, PackedWeight):
            raise BadCheckpoint(
                _(
                    "{tensor} in {folder} is quantised, which only weights of linear layers and "
                    "embeddings are."
                ).format(tensor=" + ".join(rows.names), folder=self.checkpoint.folder),
            )
        return tensor.to(dtype)

    def _read(
        self,
        rows: WeightSource,
        shape: torch.Size,
        convert: Callable[[Tensor | PackedWeight], Tensor | PackedWeight],
    ) -> Tensor | PackedWeight:
        """What `rows` describes; each of its tensors is converted on the device, then joined."""
        stored = self.checkpoint.read_parts(rows)
        found = [tuple(part.shape) for part in stored]
        height = sum(each[0] for each in found if each)
        if height != shape[0] or any(each[1:] != tuple(shape[1:]) for each in found):
            raise BadCheckpoint(
                _("{tensor} in {folder}: shape {found}; config.json asks for {wanted}.").format(
                    tensor=" + ".join(rows.names),
                    folder=self.checkpoint.folder,
                    found=" + ".join(map(str, found)),
                    wanted=tuple(shape),
                ),
                _("config.json and weights are not of the same model; fetch it again."),
            )
        return concat_rows([convert(part.to(self.device)) for part in stored], self.dtype)

    def _install(self, path: str, linear: nn.Module) -> None:
        parent, _dot, name = path.rpartition(".")
        setattr(self.model.get_submodule(parent), name, linear)

    def _check_unread(self) -> None:
        """Tensors of the checkpoint that this model has no place for.

        Raises:
            BadCheckpoint: the bias of a layer that was read without it.
        """
        read = self.checkpoint.names_read
        layers = {name.rpartition(".")[0] for name in read}
        others = []
        for name in sorted(self.checkpoint.names - read):
            layer, _dot, kind = name.rpartition(".")
            if kind == "bias" and layer in layers:
                if self.checkpoint.read_tensor(
                    name
                ).any():  # some tools write biases of nothing but zeros
                    raise BadCheckpoint(
                        _(
                            "{folder} has a tensor {tensor}, which this kind of model does not "
                            "add; its answers would be wrong without it."
                        ).format(folder=self.checkpoint.folder, tensor=name),
                        _("The weights are of another model than its config.json says."),
                    )
            elif not NEEDLESS.search(name):
                others.append(name)
        if others:
            logger.warning(
                "%s has %d tensors that are not used, such as %s",
                self.checkpoint.folder,
                len(others),
                others[0],
            )
