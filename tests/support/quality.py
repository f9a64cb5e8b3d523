"""What quantising costs: the error of each kind of layer, and the change in perplexity.

    python -m tests.support.quality [MODEL] [--text FILE]

MODEL (default smollm2) is loaded whole in float32 and its linear layers are quantised in place, one
way after the other. The embedded model's weights lie on a grid of 4 bits in groups of 32 already,
so each way is measured a second time with the columns of every matrix renumbered at random, the
same function of renumbered inputs: then no group lies on one grid. What `glmtui quantize` does is
measured as well: it lets the model read a text first, to know which columns matter.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from glmtui.engine import LoadOptions, load_model
from glmtui.engine.catalog import resolver
from glmtui.engine.convert.calibration import column_importance
from glmtui.engine.model_info import ModelInfo
from glmtui.engine.nn.linear import DenseLinear
from glmtui.engine.nn.packed_weight import quantize
from glmtui.engine.runtime.model_runner import LoadedModel

WAYS: dict[str, tuple[int, int | None]] = {
    "int8": (8, None),
    "int4 g32": (4, 32),
    "int4 g64": (4, 64),
    "int4 g128": (4, 128),
}
CONTEXT = 512  # tokens that are read at once
TEXT = Path(__file__).parents[1] / "goldens" / "quality.txt"


@dataclass(frozen=True)
class Cost:
    """What a way of quantising costs.

    Attributes:
        errors: of each kind of layer, the size of the change beside that of the weight.
        perplexity: of the text, with all linear layers quantised.
    """

    errors: dict[str, float]
    perplexity: float


class Subject:
    """A model whose linear layers are quantised, measured and put back."""

    def __init__(self, loaded: LoadedModel, text: str, importance: dict[str, Tensor]) -> None:
        self.loaded = loaded
        self.importance = importance
        self.ids = loaded.tokenizer.encode(text)
        self.layers = {
            path: module
            for path, module in loaded.model.named_modules()
            if isinstance(module, DenseLinear) and path != "head"
        }

    def perplexity(self) -> float:
        total, count = 0.0, 0
        for start in range(0, len(self.ids), CONTEXT):
            part = self.ids[start : start + CONTEXT]
            if len(part) < 2:
                continue
            seen = self.loaded.logits(part)[:-1].log_softmax(-1)
            total -= float(seen.gather(1, torch.tensor(part[1:]).unsqueeze(1)).sum())
            count += len(part) - 1
        return math.exp(total / count)

    def cost(
        self, bits: int, group: int | None, *, renumbered: bool, informed: bool = False
    ) -> Cost:
        """Of quantising all linear layers; `informed` by the importance of their columns."""
        whole = {path: module.weight for path, module in self.layers.items()}
        squares: dict[str, list[float]] = {}
        random = torch.Generator().manual_seed(0)
        try:
            for path, module in self.layers.items():
                columns = whole[path].shape[1]
                order = torch.arange(columns)
                if renumbered:
                    order = torch.randperm(columns, generator=random)
                matters = self.importance[path][order] if informed else None
                packed = quantize(whole[path][:, order], bits, group, matters)
                weight = packed.dequantize(torch.float32)
                module.weight = weight[:, order.argsort()].contiguous()
                kind = path.rpartition(".")[2]
                squares.setdefault(kind, []).append(_off(module.weight, whole[path]))
            perplexity = self.perplexity()
        finally:
            for path, module in self.layers.items():
                module.weight = whole[path]
        errors = {kind: math.sqrt(sum(all_) / len(all_)) for kind, all_ in squares.items()}
        return Cost(errors, perplexity)


def _off(quantised: Tensor, whole: Tensor) -> float:
    """The square of the error, relative to the weight's."""
    return float((quantised - whole).square().sum() / whole.square().sum())


def report(subject: Subject) -> Iterator[str]:
    base = subject.perplexity()
    yield f"{len(subject.ids)} tokens, perplexity {base:.3f} unquantised"
    for renumbered in (False, True):
        yield "off its grid (columns renumbered)" if renumbered else "as it is stored"
        for name, bits, group, informed in [
            *((name, *way, False) for name, way in WAYS.items()),
            *((f"{name} informed", *way, True) for name, way in WAYS.items() if way[0] == 4),
        ]:
            cost = subject.cost(bits, group, renumbered=renumbered, informed=informed)
            kinds = "  ".join(f"{kind} {100 * error:.2f} %" for kind, error in cost.errors.items())
            change = 100 * (cost.perplexity / base - 1)
            yield f"  {name:18} perplexity {change:+6.2f} %   error: {kinds}"


def subject(model: str, text: str) -> Subject:
    options = LoadOptions(device="cpu", dtype="float32", quant=None)
    info = resolver.resolve(model)
    assert isinstance(info, ModelInfo), f"{model} is a server"
    return Subject(load_model(model, options), text, column_importance(info, lambda progress: None))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="smollm2")
    parser.add_argument("--text", type=Path, default=TEXT)
    args = parser.parse_args()
    for line in report(subject(args.model, args.text.read_text("utf-8"))):
        print(line, flush=True)
