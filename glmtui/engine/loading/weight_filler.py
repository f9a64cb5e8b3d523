"""WeightFiller: gives a model on the meta device its weights from a checkpoint, module by module.

The tensors of a module are read, converted on their device and released before the next module is
read, so peak memory is little more than the finished model's.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from glmtui.engine.catalog.quants import Quant
from glmtui.engine.checkpoint.checkpoint import Checkpoint, WeightSource
from glmtui.engine.loading.model_parts import VOCAB_MODULES, part_of
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
from glmtui.engine.nn.packed_weight import PackedWeight, quantize, to_dense
from glmtui.engine.progress import Progress, ProgressHook
from glmtui.errors import BadCheckpoint
from glmtui.language import _

# Tensors that no model needs: constants that older checkpoints store, and a head that is tied to
# the embedding.
UNNEEDED = re.compile(r"inv_freq$|lm_head\.weight(_scale)?$")

logger = logging.getLogger(__name__)


class WeightFiller:
    """Fills one model.

    Args:
        model: on the meta device, with `LinearPlaceholder`s as its linear layers.
        device: of every part that `devices` does not name.
        dtype: of the activations and of weights that are not packed.
        quant: how linear layers are represented in memory: quantised in this way, "auto" (as in
            the checkpoint), or None (not quantised).
        kernels: that multiply with packed weights on a GPU; None to choose from all available.
        devices: the device of each part, by the names that `part_of` gives.

    Attributes:
        packed_kinds: the kinds of packed weights in the model, such as "int4 g32".
        nbytes: memory of the weights filled in so far.
    """

    def __init__(
        self,
        model: nn.Module,
        checkpoint: Checkpoint,
        device: torch.device,
        dtype: torch.dtype,
        quant: Quant | Literal["auto"] | None,
        *,
        kernels: KernelChoice | None = None,
        devices: Mapping[str, torch.device] | None = None,
    ) -> None:
        self.model = model
        self.checkpoint = checkpoint
        self.device = device  # of the module being filled
        self.dtype = dtype
        self.quant = quant
        self.kernels = kernels or make_kernel_choice("auto", checkpoint.folder, device, dtype)
        self.packed_kinds: set[str] = set()
        self.nbytes = 0
        self._devices = devices or {}
        self._tables: dict[WeightSource, Tensor | PackedWeight] = {}

    def fill(self, sources: Mapping[str, WeightSource], on_progress: ProgressHook) -> None:
        """Reads, converts and installs every parameter of the model.

        Args:
            sources: by the name of the parameter.
            on_progress: called before each module; may raise to stop.

        Raises:
            BadCheckpoint: a tensor is missing, has the wrong shape, or would be ignored although
                the result depends on it.
        """
        modules = [
            (path, module, {n: p.shape for n, p in module.named_parameters(recurse=False)})
            for path, module in self.model.named_modules()
        ]
        # Embedding and head first: their conversion needs the most temporary memory, and now
        # nothing else is in memory.
        modules.sort(key=lambda entry: entry[0] not in VOCAB_MODULES)
        nbytes = self.checkpoint.nbytes
        total = sum(parameter.numel() for parameter in self.model.parameters())
        done = 0
        for path, module, shapes in modules:
            on_progress(Progress(_("loading"), nbytes * done // total, nbytes))
            self.device = self._devices.get(part_of(path), self.device)
            module_sources = {name: sources[f"{path}.{name}"] for name in shapes}
            if path in VOCAB_MODULES:
                self._fill_table(path, module, module_sources["weight"], shapes["weight"])
            elif isinstance(module, LinearPlaceholder):
                self._fill_linear(path, module_sources, shapes)
            else:
                self._fill_norm(module, module_sources, shapes)
            self.checkpoint.close()
            done += sum(shape.numel() for shape in shapes.values())
        self._check_unread_tensors()
        on_progress(Progress(_("loading"), nbytes, nbytes))

    def _fill_linear(
        self, path: str, sources: Mapping[str, WeightSource], shapes: Mapping[str, torch.Size]
    ) -> None:
        weight = self._read(sources["weight"], shapes["weight"], self._convert_linear)
        bias = None
        if "bias" in sources:
            bias = self._read_unpacked(sources["bias"], shapes["bias"], self.dtype)
        linear = make_linear(weight, bias, self.dtype, self.kernels)
        if isinstance(weight, PackedWeight):
            # CpuInt8Linear rounds to one scale per row, even a weight in groups
            kind = "int8" if isinstance(linear, CpuInt8Linear) else weight.kind
            self.packed_kinds.add(kind)
        self.nbytes += linear.nbytes
        self._install(path, linear)

    def _fill_norm(
        self,
        module: nn.Module,
        sources: Mapping[str, WeightSource],
        shapes: Mapping[str, torch.Size],
    ) -> None:
        """Norms are in float32 on a CPU, where they are computed in float32."""
        dtype = torch.float32 if self.device.type == "cpu" else self.dtype
        for name, source in sources.items():
            tensor = self._read_unpacked(source, shapes[name], dtype)
            setattr(module, name, nn.Parameter(tensor, requires_grad=False))
            self.nbytes += tensor.nbytes

    def _fill_table(
        self, path: str, module: nn.Module, source: WeightSource, shape: torch.Size
    ) -> None:
        """The embedding or the head, with 8 bits or more; if they are tied, in memory once."""
        table = self._tables.get(source)
        if table is None:
            table = self._tables[source] = self._read(source, shape, self._convert_table)
            self.nbytes += table.nbytes
        if isinstance(module, LinearPlaceholder):
            self._install(path, make_head(table, self.dtype))
        elif isinstance(table, PackedWeight):
            self._install(path, NativeEmbedding(table))
        else:
            module.weight = nn.Parameter(table, requires_grad=False)

    def _convert_table(self, stored: Tensor | PackedWeight) -> Tensor | PackedWeight:
        if self.quant is not None and can_stay_packed(stored, self.dtype):
            return stored
        return to_dense(stored, self._table_dtype(stored))

    def _table_dtype(self, stored: Tensor | PackedWeight) -> torch.dtype:
        """On a CPU float16 instead of bfloat16 where that is exact: lookups are twice as fast."""
        is_float16 = isinstance(stored, PackedWeight) or stored.dtype == torch.float16
        if self.device.type == "cpu" and self.dtype == torch.bfloat16 and is_float16:
            return torch.float16
        return self.dtype

    def _convert_linear(self, weight: Tensor | PackedWeight) -> Tensor | PackedWeight:
        if isinstance(weight, PackedWeight) and self.quant == "auto":
            return weight
        if not isinstance(self.quant, Quant):
            return to_dense(weight, self.dtype)
        if isinstance(weight, PackedWeight):
            if weight.bits == self.quant.bits:
                return weight
            weight = weight.dequantize(torch.float32)
        return quantize(weight, self.quant.bits, self.quant.group)

    def _read_unpacked(self, source: WeightSource, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """A parameter that must not be quantised, such as a bias."""
        tensor = self._read(source, shape, lambda part: part)
        if isinstance(tensor, PackedWeight):
            raise BadCheckpoint(
                _(
                    "{tensor} in {folder} is quantised; only weights of linear layers and "
                    "embeddings can be."
                ).format(tensor=source, folder=self.checkpoint.folder),
            )
        return tensor.to(dtype)

    def _read(
        self,
        source: WeightSource,
        shape: torch.Size,
        convert: Callable[[Tensor | PackedWeight], Tensor | PackedWeight],
    ) -> Tensor | PackedWeight:
        """Each tensor of `source` is converted on the device, then they are joined."""
        return self.checkpoint.read_source(
            source,
            shape=shape,
            convert=lambda part: convert(part.to(self.device)),
            fallback_dtype=self.dtype,
        )

    def _install(self, path: str, module: nn.Module) -> None:
        parent, _dot, name = path.rpartition(".")
        setattr(self.model.get_submodule(parent), name, module)

    def _check_unread_tensors(self) -> None:
        """Logs the tensors of the checkpoint that the model does not use.

        Raises:
            BadCheckpoint: one is the nonzero bias of a layer that was read without a bias.
        """
        read = self.checkpoint.names_read
        layers = {name.rpartition(".")[0] for name in read}
        unused = []
        for name in sorted(self.checkpoint.names - read):
            layer, _dot, kind = name.rpartition(".")
            if kind == "bias" and layer in layers:
                # some tools write biases that are all zeros
                if self.checkpoint.read_tensor(name).any():
                    raise BadCheckpoint(
                        _(
                            "{folder} has a tensor {tensor}, which this kind of model does not "
                            "use; without it the replies would be wrong."
                        ).format(folder=self.checkpoint.folder, tensor=name),
                        _("The weights belong to another model than config.json."),
                    )
            elif not UNNEEDED.search(name):
                unused.append(name)
        if unused:
            logger.warning(
                "%s has %d tensors that are not used, such as %s",
                self.checkpoint.folder,
                len(unused),
                unused[0],
            )
