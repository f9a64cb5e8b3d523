"""What each linear layer of a model reads, and so which columns of its weight matter.

The model reads a short text, its weights in 4 bits as they would be without this knowledge: a few
inputs are many times as large as the others, and that shows even so. Knows nothing of how weights
are packed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from glmtui.chat import Message
from glmtui.engine.loading.loader import load
from glmtui.engine.model_info import LoadOptions, ModelInfo
from glmtui.engine.nn.linear import LinearLayer
from glmtui.engine.progress import ProgressHook
from glmtui.errors import UnsupportedModel

TEXT = """\
Water expands as it freezes, which is why ice floats and why pipes burst. 水结冰时体积会变大。
Write a function that adds two numbers: def add(a, b): return a + b
"Are you sure?" she asked. 他说：“我不知道，但是我们可以再试一次。” In 1969 two men walked there.
1. Mix 500 grams of flour with salt. 2. Add water and stir. 3. Bake for half an hour.
The council met on Tuesday to discuss the new bridge, and nobody could say what it would cost.
北京是中国的首都，有三千多年的历史，每年都有很多人来这里旅行。
A sum of odd numbers is a square: 1 + 3 + 5 = 9. Most birds of the forest sing at dawn, when the
air is still and a song carries far. Dear Mrs. Lang, thank you for your letter of 14 March.
"""


def column_importance(info: ModelInfo, on_progress: ProgressHook) -> dict[str, Tensor]:
    """The mean square of each input of each linear layer, while the model reads `TEXT`.

    Args:
        on_progress: called while the model is loaded; what it raises ends the work there.

    Returns:
        float32 [in] on the CPU by the layer's path, such as "layers.3.down"; empty where the model
        came without a tokenizer.

    Raises:
        GlmtuiError: the model cannot be loaded.
    """
    loaded = load(info, LoadOptions(quant="int4"), on_progress)
    try:
        ids = loaded.chat_format.encode([Message("user", TEXT)])
    except UnsupportedModel:
        return {}
    found: dict[str, Tensor] = {}
    for path, module in loaded.model.named_modules():
        if isinstance(module, LinearLayer):
            module.register_forward_pre_hook(_note(partial(found.setdefault, path)))
    loaded.logits(ids[: loaded.context_length])
    return found


def _note(keep: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        keep(inputs[0].float().square().flatten(0, -2).mean(0).cpu())

    return note
