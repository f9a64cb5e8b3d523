"""compare_replies: verifies that a ChatGLM-6B and its Slim version give the same replies.

Both models run on the CPU, in the dtype of their weights, and layer by layer from their mapped
files: so even a model larger than the memory can be verified, if slowly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glmtui.engine.catalog.model_folder import read_config
from glmtui.engine.checkpoint.checkpoint import Checkpoint, WeightSource
from glmtui.engine.models import chatglm
from glmtui.engine.nn.packed_weight import to_dense
from glmtui.engine.tokenization.sentencepiece_tokenizer import IceTokenizer
from glmtui.errors import BadCheckpoint
from glmtui.language import _

QUESTIONS = ("你好", "Who are you?")
REPLY_TOKENS = 4  # per model; each of them reads all weights once
HEAD_ROWS = 4096  # rows of the head that are converted to float32 at a time
# Largest allowed difference of two logits. Both models compute the same sums: 0 is expected.
TOLERANCE = 1e-3
EMBEDDING = "transformer.word_embeddings.weight"
HEAD = "lm_head.weight"

Report = Callable[[str, int, int], None]
"""Called with what is being done, and bytes done and in total; may raise to stop."""


@dataclass(frozen=True, slots=True)
class ReplyComparison:
    """What was compared.

    Attributes:
        prompts: number of prompts.
        tokens: number of tokens of the greedy reply to each prompt.
        as_text: whether the prompts are text; without a tokenizer they are token ids.
        worst: the largest difference of two logits.
    """

    prompts: int
    tokens: int
    as_text: bool
    worst: float

    def __str__(self) -> str:
        kind = "prompts" if self.as_text else "prompts of token ids"
        return (
            f"{self.prompts} {kind} give the same logits (largest difference {self.worst:.1g}) "
            f"and the same first {self.tokens} tokens of a greedy reply"
        )


def compare_replies(original: Path, slim: Path, report: Report) -> ReplyComparison:
    """Gives both models the same prompts and compares logits and greedy replies.

    Raises:
        BadCheckpoint: they differ.
    """
    old, new = StreamedModel(original), StreamedModel(slim)
    prompts, as_text = _make_prompts(old, new)
    size = old.checkpoint.nbytes + new.checkpoint.nbytes
    logits = []
    for n, model in enumerate((old, new)):

        def on_fraction(fraction: float, n: int = n) -> None:
            report(_("comparing replies"), int((n + fraction) / 2 * size), size)

        logits.append(model.greedy_logits(prompts, REPLY_TOKENS, on_fraction))
    worst = float((logits[0] - logits[1]).abs().max())
    replies = [values[:, -REPLY_TOKENS:].argmax(-1) for values in logits]
    # "not <=" instead of ">", because NaN must fail too
    if not worst <= TOLERANCE or not torch.equal(*replies):
        raise BadCheckpoint(
            _(
                "The replies of the Slim model differ from those of {original}: logits differ by "
                "{worst:.3g}."
            ).format(original=original, worst=worst),
            _("The files of the source are inconsistent. The Slim model was deleted."),
        )
    return ReplyComparison(len(prompts), REPLY_TOKENS, as_text, worst)


def _make_prompts(old: StreamedModel, new: StreamedModel) -> tuple[list[list[int]], bool]:
    """Prompts as ids of the Slim vocabulary, and whether they are text.

    Raises:
        BadCheckpoint: the two tokenizers encode a question differently.
    """
    marks = new.config.markers
    end = [marks.gmask, marks.sop]
    tokenizer, old_tokenizer = new.tokenizer, old.tokenizer
    if tokenizer is None or tokenizer.special["<sop>"] != marks.sop:
        ids = torch.linspace(6, marks.mask - 1, 8).long().tolist()  # from the whole vocabulary
        return [[*ids, *end], [*ids[:3], *end]], False
    prompts = [[*tokenizer.encode(text), *end] for text in QUESTIONS]
    for text, prompt in zip(QUESTIONS, prompts, strict=True):
        assert old_tokenizer is not None, "the Slim tokenizer was made from it"
        if [i - old.cut for i in old_tokenizer.encode(text)] != prompt[: -len(end)]:
            raise BadCheckpoint(
                _("The two tokenizers encode {text!r} differently.").format(text=text),
                _("The Slim model was deleted."),
            )
    return prompts, True


class StreamedModel:
    """A ChatGLM-6B whose weights are read from its files again for every token.

    Attributes:
        cut: number of image tokens, which are the first ids.
    """

    def __init__(self, folder: Path) -> None:
        raw = read_config(folder)
        self.config = replace(chatglm.load_config(raw), slim=False)
        self.cut = self.config.image_rows
        self.checkpoint = Checkpoint(folder, raw)
        tokenizer = chatglm.load_tokenizer(folder, raw)
        assert tokenizer is None or isinstance(tokenizer, IceTokenizer)
        self.tokenizer = tokenizer
        self._sources = chatglm.weight_sources(self.config)
        self._dtype = self.checkpoint.read_tensor("transformer.layers.0.attention.dense.bias").dtype

    @torch.inference_mode()
    def greedy_logits(
        self, prompts: Sequence[Sequence[int]], tokens: int, on_fraction: Callable[[float], None]
    ) -> Tensor:
        """Logits of the text tokens at each token of the prompts and of greedy replies.

        Args:
            prompts: ids of the Slim vocabulary.
            on_fraction: called with the fraction of the work that is done.

        Returns:
            float32 [prompts, longest prompt + tokens - 1, text vocabulary]. The values at padding
            are meaningless, but equal for equal weights.
        """
        longest = max(map(len, prompts))
        padding = torch.tensor([longest - len(prompt) for prompt in prompts])
        padded = [[chatglm.SLIM_PAD_ID] * (longest - len(p)) + list(p) for p in prompts]
        ids = torch.tensor(padded) + self.cut
        model, device = self._build_model(tokens, on_fraction), torch.device("cpu")
        model.prepare(longest + tokens, self._dtype, device)
        cache = model.new_cache(longest + tokens, self._dtype, device, batch=len(prompts))
        steps = []
        for _step in range(tokens):
            steps.append(model(ids, cache, padding=padding)[..., self.cut :])
            ids = steps[-1][:, -1:].argmax(-1) + self.cut
        return torch.cat(steps, dim=1)

    def _build_model(self, passes: int, on_fraction: Callable[[float], None]) -> chatglm.Model:
        """A model that reads its weights when it needs them; only the last norm is in memory."""
        with torch.device("meta"):
            model = chatglm.Model(self.config)
        self._fill(model.norm, "norm.")
        total, done = passes * len(model.layers), 0

        def fill(layer: nn.Module, n: int) -> None:
            nonlocal done
            on_fraction(done / total)
            done += 1
            self._fill(layer, f"layers.{n}.")

        model.add_module("embedding", _FunctionModule(self._embed))
        model.add_module("layers", _StreamedLayers(model.layers, fill))
        model.add_module("head", _FunctionModule(self._logits))
        return model

    def _fill(self, module: nn.Module, prefix: str) -> None:
        """Loads the weights of a module on the meta device, mapped if their dtype is the same."""
        tensors = {}
        for name in module.state_dict():
            # norms are computed in float32 on a CPU
            dtype = torch.float32 if "norm" in prefix + name else self._dtype
            tensors[name] = to_dense(
                self.checkpoint.read_source(self._sources[prefix + name]), dtype
            )
        module.load_state_dict(tensors, assign=True)
        self.checkpoint.close()

    def _embed(self, ids: Tensor) -> Tensor:
        table = self.checkpoint.read_source(WeightSource(EMBEDDING))
        self.checkpoint.close()
        rows = [to_dense(table[int(i) : int(i) + 1], self._dtype) for i in ids.flatten()]
        return torch.cat(rows).view(*ids.shape, -1)

    def _logits(self, x: Tensor) -> Tensor:
        table = self.checkpoint.read_source(
            WeightSource(HEAD if HEAD in self.checkpoint else EMBEDDING)
        )
        self.checkpoint.close()
        blocks = (table[i : i + HEAD_ROWS] for i in range(0, table.shape[0], HEAD_ROWS))
        return torch.cat(
            [F.linear(x.float(), to_dense(block, torch.float32)) for block in blocks], -1
        )


class _FunctionModule(nn.Module):
    """Calls a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, x: Tensor) -> Tensor:
        return self._function(x)


class _StreamedLayers(nn.ModuleList):
    """Layers that have their weights in memory only while they run."""

    def __init__(self, layers: nn.ModuleList, fill: Callable[[nn.Module, int], None]) -> None:
        super().__init__(layers)
        self._fill = fill

    def __iter__(self) -> Iterator[nn.Module]:
        for n, layer in enumerate(super().__iter__()):
            self._fill(layer, n)
            yield layer
            layer.to("meta")
