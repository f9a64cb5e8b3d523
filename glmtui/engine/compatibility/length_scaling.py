"""LengthScaling: rotary positions that depend on the length of the whole text.

longrope (arXiv:2402.13753) uses other frequencies for all positions once a text is longer than the
model's original context; dynamic NTK scaling uses frequencies that depend on the exact length.
transformers only sees the tokens of one call, so a prompt that is read in chunks would mix
frequencies. Here every chunk is given the length of the whole text.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Regime: TypeAlias = tuple[int, ...]
"""What determines the frequencies: keys can be shared between two texts of the same regime."""

# For these model types, `generate` of transformers reads the whole text again when a reply crosses
# the boundary (`prepare_inputs_for_generation` drops the cache). For others, tokens in the cache
# keep their positions, and only new tokens use the new frequencies.
RESTARTING = ("phi3", "phimoe", "phi4_multimodal")


class LengthScaling:
    """The rotary modules of a model that depend on the length of the whole text.

    Attributes:
        restarts: whether a text that crosses the boundary is read again from its start.
    """

    def __init__(self, model: nn.Module, modules: list[nn.Module]) -> None:
        self._modules = modules
        self._boundaries = sorted({b for module in modules for b in _boundaries(module)})
        self.restarts = getattr(model.config, "model_type", "") in RESTARTING
        self._total = 0  # length to show to the modules; 0 if the call has the last position anyway
        self._position_added = False  # in the current call
        for module in modules:
            module.register_forward_pre_hook(self._add_last_position, with_kwargs=True)
            module.register_forward_hook(self._remove_last_position)

    @classmethod
    def find(cls, model: nn.Module) -> LengthScaling | None:
        """The scaling of a transformers model; None if positions do not depend on the length."""
        modules = [m for m in model.modules() if _scaling_kinds(m) and _takes_positions(m)]
        return cls(model, modules) if modules else None

    def regime(self, total: int) -> Regime:
        """The regime of a text of `total` tokens."""
        return tuple(
            (total if dynamic else 1) if total > most else 0 for most, dynamic in self._boundaries
        )

    def begin_call(self, end: int, total: int) -> None:
        """Prepares the next call of the model.

        Args:
            end: number of tokens up to the end of the call.
            total: number of tokens of the whole text.
        """
        self._total = total if total > end else 0
        for module in self._modules:
            if any(dynamic for _, dynamic in _boundaries(module)):
                _reset_if_longer(module, total)

    def _add_last_position(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Appends the text's last position, because modules use the greatest position they get."""
        if not self._total:
            return None
        call = inspect.signature(module.forward).bind(*args, **kwargs)
        positions = call.arguments.get("position_ids")
        self._position_added = positions is not None
        if positions is None:
            return None
        last = positions.new_full((*positions.shape[:-1], 1), self._total - 1)
        call.arguments["position_ids"] = torch.cat((positions, last), dim=-1)
        return call.args, call.kwargs

    def _remove_last_position(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Removes its row from the tables, [..., positions, size]."""
        if not self._position_added:
            return None
        self._position_added = False
        if isinstance(output, Tensor):
            return output[..., :-1, :]
        return tuple(table[..., :-1, :] for table in output)


def _scaling_kinds(module: nn.Module) -> dict[str, str]:
    """The kinds of length scaling of a rotary module, by layer type ("" for all layers)."""
    rope_type = getattr(module, "rope_type", None)
    kinds = rope_type if isinstance(rope_type, Mapping) else {"": rope_type}
    return {
        str(layer): kind
        for layer, kind in kinds.items()
        if isinstance(kind, str) and (kind == "longrope" or "dynamic" in kind)
    }


def _takes_positions(module: nn.Module) -> bool:
    return "position_ids" in inspect.signature(module.forward).parameters


def _boundaries(module: Any) -> list[tuple[int, bool]]:
    """Lengths up to which the original frequencies are used, and whether scaling is dynamic."""
    found = []
    for layer, kind in _scaling_kinds(module).items():
        if kind == "longrope":
            parameters = module.config.rope_parameters
            parameters = parameters[layer] if layer else parameters
            found.append((int(parameters["original_max_position_embeddings"]), False))
        else:
            found.append((int(module.original_max_seq_len), True))
    return found


def _reset_if_longer(module: Any, total: int) -> None:
    """Restores the original frequencies if those of a longer text are set."""
    for layer in _scaling_kinds(module):
        prefix = f"{layer}_" if layer else ""
        length = getattr(module, f"{prefix}max_seq_len_cached", module.max_seq_len_cached)
        if int(length) > max(total, module.original_max_seq_len):
            original = getattr(module, f"{prefix}original_inv_freq")
            current = getattr(module, f"{prefix}inv_freq")
            module.register_buffer(
                f"{prefix}inv_freq", original.to(current.device), persistent=False
            )
            setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
