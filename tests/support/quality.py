"""Measures the cost of quantisation: the error of each kind of layer and the change in perplexity.

    python -m tests.support.quality [MODEL] [--text FILE]

MODEL (default smollm2) is loaded in float32, and its linear layers are quantised in place with each
quantisation in turn. The weights of smollm2 were already quantised to 4 bits in groups of 32, so
that its groups lose nothing. Therefore each quantisation is measured again with the columns of
every matrix in a random order (and the inputs likewise). "informed" is what `glmtui quantize` does:
it uses the importance of the columns.
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

QUANTISATIONS: dict[str, tuple[int, int | None]] = {
    "int8": (8, None),
    "int4 g32": (4, 32),
    "int4 g64": (4, 64),
    "int4 g128": (4, 128),
}
CONTEXT = 512  # tokens in one forward pass
TEXT = Path(__file__).parents[1] / "goldens" / "quality.txt"


@dataclass(frozen=True)
class QuantisationCost:
    """The cost of one quantisation.

    Attributes:
        errors: for each kind of layer the relative error of its weights (root mean square).
        perplexity: of the text, with all linear layers quantised.
    """

    errors: dict[str, float]
    perplexity: float


class QualityTest:
    """A model whose linear layers can be quantised, measured and restored."""

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
        self, bits: int, group: int | None, *, shuffled: bool, informed: bool = False
    ) -> QuantisationCost:
        """Quantises all linear layers, measures and restores them.

        Args:
            shuffled: whether the columns are in a random order.
            informed: whether the importance of the columns is used.
        """
        original = {path: module.weight for path, module in self.layers.items()}
        squares: dict[str, list[float]] = {}
        random = torch.Generator().manual_seed(0)
        try:
            for path, module in self.layers.items():
                columns = original[path].shape[1]
                order = torch.arange(columns)
                if shuffled:
                    order = torch.randperm(columns, generator=random)
                importance = self.importance[path][order] if informed else None
                packed = quantize(original[path][:, order], bits, group, importance)
                weight = packed.dequantize(torch.float32)
                module.weight = weight[:, order.argsort()].contiguous()
                kind = path.rpartition(".")[2]
                squares.setdefault(kind, []).append(_relative_error(module.weight, original[path]))
            perplexity = self.perplexity()
        finally:
            for path, module in self.layers.items():
                module.weight = original[path]
        errors = {kind: math.sqrt(sum(all_) / len(all_)) for kind, all_ in squares.items()}
        return QuantisationCost(errors, perplexity)


def _relative_error(quantised: Tensor, original: Tensor) -> float:
    """The squared error, relative to the squared weights."""
    return float((quantised - original).square().sum() / original.square().sum())


def report(test: QualityTest) -> Iterator[str]:
    base = test.perplexity()
    yield f"{len(test.ids)} tokens, perplexity {base:.3f} unquantised"
    for shuffled in (False, True):
        yield "columns shuffled" if shuffled else "columns in their stored order"
        for name, bits, group, informed in [
            *((name, *quantisation, False) for name, quantisation in QUANTISATIONS.items()),
            *(
                (f"{name} informed", *quantisation, True)
                for name, quantisation in QUANTISATIONS.items()
                if quantisation[0] == 4
            ),
        ]:
            cost = test.cost(bits, group, shuffled=shuffled, informed=informed)
            kinds = "  ".join(f"{kind} {100 * error:.2f} %" for kind, error in cost.errors.items())
            change = 100 * (cost.perplexity / base - 1)
            yield f"  {name:18} perplexity {change:+6.2f} %   error: {kinds}"


def load_quality_test(model: str, text: str) -> QualityTest:
    options = LoadOptions(device="cpu", dtype="float32", quant=None)
    info = resolver.resolve(model)
    assert isinstance(info, ModelInfo), f"{model} is a server"
    return QualityTest(
        load_model(model, options), text, column_importance(info, lambda progress: None)
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="smollm2")
    parser.add_argument("--text", type=Path, default=TEXT)
    args = parser.parse_args()
    for line in report(load_quality_test(args.model, args.text.read_text("utf-8"))):
        print(line, flush=True)
