"""LengthScaling: rotary positions that depend on how long the whole text is.

longrope (arXiv:2402.13753) turns every position by other factors once a text is longer than the
model was first trained for; dynamic NTK scaling turns it by the text's very length. Transformers
looks at the tokens of one call, so a prompt that is read in chunks gets positions of two kinds.
Here each chunk is told the length of the whole. Knows transformers' rotary modules, no caches.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Regime: TypeAlias = tuple[int, ...]
"""What decides how positions are turned: two texts of one regime share keys."""

# Of these, transformers' `generate` reads the whole text again when a reply passes the boundary
# (`prepare_inputs_for_generation` drops the cache). With others what was read keeps its positions,
# and only new tokens are turned in the new way.
RESTARTING = ("phi3", "phimoe", "phi4_multimodal")


class LengthScaling:
    """The rotary modules of a model that depend on the length of the whole text.

    Attributes:
        restarts: whether a text that passes the boundary has to be read again from its start.
    """

    def __init__(self, model: nn.Module, modules: list[nn.Module]) -> None:
        self._modules = modules
        self._boundaries = sorted({b for module in modules for b in _boundaries(module)})
        self.restarts = getattr(model.config, "model_type", "") in RESTARTING
        self._total = 0
        self._added = False  # a position, to those of the call that is going on
        for module in modules:
            module.register_forward_pre_hook(self._lengthen, with_kwargs=True)
            module.register_forward_hook(self._shorten)

    @classmethod
    def find(cls, model: nn.Module) -> LengthScaling | None:
        """The scaling of a model of transformers'; None where positions do not depend on length."""
        modules = [m for m in model.modules() if _kinds(m) and _takes_positions(m)]
        return cls(model, modules) if modules else None

    def regime(self, total: int) -> Regime:
        """The regime of a text of `total` tokens."""
        return tuple(
            (total if dynamic else 1) if total > most else 0 for most, dynamic in self._boundaries
        )

    def begin(self, end: int, total: int) -> None:
        """Says what the next call of the model reads.

        Args:
            end: how many tokens there are with those of the call.
            total: how many the whole text has.
        """
        self._total = total if total > end else 0
        for module in self._modules:
            if any(dynamic for _, dynamic in _boundaries(module)):
                _forget_longer(module, total)

    def _lengthen(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Adds the text's last position to those of the call, for the module to look at."""
        if not self._total:
            return None
        called = inspect.signature(module.forward).bind(*args, **kwargs)
        positions = called.arguments.get("position_ids")
        self._added = positions is not None
        if positions is None:
            return None
        last = positions.new_full((*positions.shape[:-1], 1), self._total - 1)
        called.arguments["position_ids"] = torch.cat((positions, last), dim=-1)
        return called.args, called.kwargs

    def _shorten(self, module: nn.Module, args: Any, out: Any) -> Any:
        """Takes it away again, from tables [..., positions, size]."""
        if not self._added:
            return None
        self._added = False
        if isinstance(out, Tensor):
            return out[..., :-1, :]
        return tuple(table[..., :-1, :] for table in out)


def _kinds(module: nn.Module) -> dict[str, str]:
    """The kinds of scaling by length that a rotary module has, by layer type ("" for all)."""
    said = getattr(module, "rope_type", None)
    kinds = said if isinstance(said, Mapping) else {"": said}
    return {
        str(layer): kind
        for layer, kind in kinds.items()
        if isinstance(kind, str) and (kind == "longrope" or "dynamic" in kind)
    }


def _takes_positions(module: nn.Module) -> bool:
    return "position_ids" in inspect.signature(module.forward).parameters


def _boundaries(module: Any) -> list[tuple[int, bool]]:
    """Up to which length positions are as they were trained first, and if it is dynamic beyond."""
    found = []
    for layer, kind in _kinds(module).items():
        if kind == "longrope":
            said = module.config.rope_parameters
            said = said[layer] if layer else said
            found.append((int(said["original_max_position_embeddings"]), False))
        else:
            found.append((int(module.original_max_seq_len), True))
    return found


def _forget_longer(module: Any, total: int) -> None:
    """Makes a module that keeps the frequencies of its longest text begin as a new one does."""
    for layer in _kinds(module):
        prefix = f"{layer}_" if layer else ""
        kept = getattr(module, f"{prefix}max_seq_len_cached", module.max_seq_len_cached)
        if int(kept) > max(total, module.original_max_seq_len):
            first = getattr(module, f"{prefix}original_inv_freq")
            current = getattr(module, f"{prefix}inv_freq")
            module.register_buffer(f"{prefix}inv_freq", first.to(current.device), persistent=False)
            setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
