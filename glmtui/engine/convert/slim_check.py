"""Whether a ChatGLM-6B and its Slim form say the same: both run from their files, layer by layer.

So a model larger than the memory runs too, if slowly: of each tensor only the pages in use are in
memory. On the CPU, in the dtype of the weights.
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
REPLY_TOKENS = 4  # each takes all weights through memory once
HEAD_ROWS = 4096  # of the vocabulary, made float32 at a time
TOLERANCE = 1e-3  # of logits; the sums are the same, so anything but 0 would be strange
WORDS = "transformer.word_embeddings.weight"
HEAD = "lm_head.weight"

Report = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class ReplyComparison:
    """What was compared.

    Attributes:
        prompts: how many prompts both models were given, as text or, without tokenizer, as ids.
        tokens: how many tokens of a greedy reply to each.
        worst: the largest difference between two logits of a text token.
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
    """Asks both models the same.

    Args:
        report: told what is done, and bytes done and in all; may raise to stop.

    Raises:
        BadCheckpoint: they do not answer the same.
    """
    old, new = StreamedModel(original), StreamedModel(slim)
    asked, as_text = _prompts(old, new)
    size = old.checkpoint.nbytes + new.checkpoint.nbytes
    logits = []
    for n, model in enumerate((old, new)):

        def read(fraction: float, n: int = n) -> None:
            report(_("comparing replies"), int((n + fraction) / 2 * size), size)

        logits.append(model.greedy_logits(asked, REPLY_TOKENS, read))
    worst = float((logits[0] - logits[1]).abs().max())
    replies = [values[:, -REPLY_TOKENS:].argmax(-1) for values in logits]
    # written so that NaN is a failure too
    if not worst <= TOLERANCE or not torch.equal(*replies):
        raise BadCheckpoint(
            _(
                "The Slim model does not answer as {original} does: logits differ by {worst:.3g}."
            ).format(original=original, worst=worst),
            _("The source's files contradict each other; nothing was kept."),
        )
    return ReplyComparison(len(asked), REPLY_TOKENS, as_text, worst)


def _prompts(old: StreamedModel, new: StreamedModel) -> tuple[list[list[int]], bool]:
    """Prompt ids in the Slim vocabulary, and whether they are text. Raises BadCheckpoint."""
    marks = new.config.marks
    ours = new.tokenizer
    if ours is None or ours.special["<sop>"] != marks.sop:
        spread = torch.linspace(6, marks.mask - 1, 8).long().tolist()
        return [[*spread, marks.gmask, marks.sop], [*spread[:3], marks.gmask, marks.sop]], False
    prompts = [[*ours.encode(text), marks.gmask, marks.sop] for text in QUESTIONS]
    theirs = old.tokenizer
    for text, prompt in zip(QUESTIONS, prompts, strict=True):
        assert theirs is not None, "the Slim tokenizer was made from it"
        if [i - old.cut for i in theirs.encode(text)] != prompt[:-2]:
            raise BadCheckpoint(
                _("The tokenizers do not agree on {text!r}.").format(text=text),
                _("Nothing was kept."),
            )
    return prompts, True


class StreamedModel:
    """ChatGLM-6B, read from its files anew for every token.

    Attributes:
        cut: how many first ids are of image tokens.
    """

    def __init__(self, folder: Path) -> None:
        raw = read_config(folder)
        self.config = replace(chatglm.load_config(raw), slim=False)
        self.cut = self.config.image_rows
        self.checkpoint = Checkpoint(folder, raw)
        tokenizer = chatglm.load_tokenizer(folder, raw)
        assert tokenizer is None or isinstance(tokenizer, IceTokenizer)
        self.tokenizer = tokenizer
        self._sources = chatglm.sources(self.config)
        self._dtype = self.checkpoint.read_tensor("transformer.layers.0.attention.dense.bias").dtype

    @torch.inference_mode()
    def greedy_logits(
        self, prompts: Sequence[Sequence[int]], tokens: int, read: Callable[[float], None]
    ) -> Tensor:
        """Logits of the text tokens along the prompts and greedy replies to them.

        Args:
            prompts: ids in the Slim vocabulary.
            read: told which fraction of the work is done.

        Returns:
            float32 [prompts, longest prompt + tokens - 1, text vocabulary]; those at padding mean
            nothing, but are the same for the same weights.
        """
        longest = max(map(len, prompts))
        padding = torch.tensor([longest - len(prompt) for prompt in prompts])
        padded = [[chatglm.SLIM_PAD_ID] * (longest - len(p)) + list(p) for p in prompts]
        ids = torch.tensor(padded) + self.cut
        model, device = self._model(tokens, read), torch.device("cpu")
        model.prepare(longest + tokens, self._dtype, device)
        cache = model.new_cache(longest + tokens, self._dtype, device, batch=len(prompts))
        steps = []
        for _step in range(tokens):
            steps.append(model(ids, cache, padding=padding)[..., self.cut :])
            ids = steps[-1][:, -1:].argmax(-1) + self.cut
        return torch.cat(steps, dim=1)

    def _model(self, passes: int, read: Callable[[float], None]) -> chatglm.Model:
        """The model with all its weights on disk, but for the last norm."""
        with torch.device("meta"):
            model = chatglm.Model(self.config)
        self._fill(model.norm, "norm.")
        count, done = passes * len(model.layers), 0

        def fill(layer: nn.Module, n: int) -> None:
            nonlocal done
            read(done / count)
            done += 1
            self._fill(layer, f"layers.{n}.")

        model.add_module("embedding", _Calling(self._embedded))
        model.add_module("layers", _Layers(model.layers, fill))
        model.add_module("head", _Calling(self._logits))
        return model

    def _fill(self, module: nn.Module, prefix: str) -> None:
        """Gives a module on the meta device its weights, mapped where their dtype allows."""
        tensors = {}
        for name in module.state_dict():
            # norms: a CPU works on them in float32
            dtype = torch.float32 if "norm" in prefix + name else self._dtype
            tensors[name] = to_dense(
                self.checkpoint.read_source(self._sources[prefix + name]), dtype
            )
        module.load_state_dict(tensors, assign=True)
        self.checkpoint.close()

    def _embedded(self, ids: Tensor) -> Tensor:
        table = self.checkpoint.read_source(WeightSource(WORDS))
        self.checkpoint.close()
        rows = [to_dense(table[int(i) : int(i) + 1], self._dtype) for i in ids.flatten()]
        return torch.cat(rows).view(*ids.shape, -1)

    def _logits(self, x: Tensor) -> Tensor:
        table = self.checkpoint.read_source(
            WeightSource(HEAD if HEAD in self.checkpoint else WORDS)
        )
        self.checkpoint.close()
        parts = (table[i : i + HEAD_ROWS] for i in range(0, table.shape[0], HEAD_ROWS))
        return torch.cat([F.linear(x.float(), to_dense(part, torch.float32)) for part in parts], -1)


class _Calling(nn.Module):
    """A function in the place of a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, x: Tensor) -> Tensor:
        return self._function(x)


class _Layers(nn.ModuleList):
    """Layers that have weights only while they are used."""

    def __init__(self, layers: nn.ModuleList, fill: Callable[[nn.Module, int], None]) -> None:
        super().__init__(layers)
        self._fill = fill

    def __iter__(self) -> Iterator[nn.Module]:
        for n, layer in enumerate(super().__iter__()):
            self._fill(layer, n)
            yield layer
            layer.to("meta")
