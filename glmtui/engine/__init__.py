"""The engine: loads models and generates replies. For scripts: `load_model` and `LoadOptions`.

`load_model` is imported at its first use, so that importing this package does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glmtui.engine.model_info import LoadOptions

if TYPE_CHECKING:
    from glmtui.engine.loading.loader import load_model

__all__ = ["LoadOptions", "load_model"]


def __getattr__(name: str) -> Any:
    if name == "load_model":
        from glmtui.engine.hardware.environment import prepare_environment

        prepare_environment()
        from glmtui.engine.loading.loader import load_model

        return load_model
    raise AttributeError(name)
