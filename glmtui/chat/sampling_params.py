"""SamplingParams: how the next token is chosen and when a reply ends."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen and when a reply ends.

    ``None`` means the model's default (see `with_defaults`); in the sampler it means "no filter".

    Attributes:
        temperature: the logits are divided by it; 0 is greedy.
        top_k: sample from this many most likely tokens; 0 means all.
        top_p: sample from the smallest set of tokens whose total probability reaches this.
        repetition_penalty: a value over 1 makes tokens of the prompt and the reply less likely
            (Keskar et al. 2019, arXiv:1909.05858).
        do_sample: False is greedy.
        seed: makes a reply reproducible.
        max_length: maximum length of prompt and reply together, in tokens.
        max_new_tokens: maximum length of the reply, in tokens.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    do_sample: bool | None = None
    seed: int | None = None
    max_length: int | None = None
    max_new_tokens: int | None = None

    def with_defaults(self, defaults: SamplingParams) -> SamplingParams:
        """A copy in which every None is replaced by the value of `defaults`."""
        own = {f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None}
        return replace(defaults, **own)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always chosen."""
        return self.do_sample is False or self.temperature == 0
