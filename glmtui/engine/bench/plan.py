"""BenchPlan: what a benchmark measures: rates at several context lengths, and a conversation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from glmtui.engine.bench.bench_engine import BenchTarget

Kind: TypeAlias = Literal["prefill", "decode", "turn", "reread"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CONTEXTS = (0, 512, 2048)  # tokens; longer ones than the context length are shortened
TURNS = 20
REPORTED_TURNS = (1, 5, 10, 20)
QUESTION_TOKENS = 41
REPLY_TOKENS = 44  # with the question 85 per turn, so that turn 20 starts at 1,660 tokens


@dataclass(frozen=True, slots=True)
class Measurement:
    """One thing to measure.

    Attributes:
        kind: "prefill" and "decode" are rates in tokens per second. "turn" and "reread" are seconds
            to the first token: of the next turn of a conversation, and of a new prompt of the same
            length.
        at: tokens of context, or for "turn" and "reread" the turn, counted from 1.
    """

    kind: Kind
    at: int

    @property
    def is_rate(self) -> bool:
        return self.kind in ("prefill", "decode")


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """What to measure on which engines.

    Attributes:
        targets: our engine first.
        rounds: how often everything is measured, unless `max_seconds` have passed.
        tokens: length of each reply.
        max_seconds: no further round starts after this time.
    """

    targets: tuple[BenchTarget, ...]
    rounds: int = 3
    tokens: int = 64
    max_seconds: float = 90


def needed_context(tokens: int) -> int:
    """The context length that a benchmark with replies of `tokens` tokens needs."""
    conversation = TURNS * (QUESTION_TOKENS + REPLY_TOKENS) + 8  # and the `prompt_end`
    return max(max(CONTEXTS) + tokens, conversation)


def fitting_contexts(limit: int, tokens: int, shortest: int) -> list[int]:
    """`CONTEXTS` as lengths of prompts that fit, each once.

    Args:
        limit: the context length.
        tokens: of the reply to each prompt.
        shortest: length of the shortest possible prompt.
    """
    longest = max(limit - tokens, shortest)
    return sorted({min(max(context, shortest), longest) for context in CONTEXTS})


def fitting_turns(limit: int, end: int) -> int:
    """The number of turns of a conversation that fit; `end` is the length of the prompt's end."""
    return min(TURNS, (limit - end) // (QUESTION_TOKENS + REPLY_TOKENS))


def reported_turns(turns: Iterable[int]) -> list[int]:
    """The turns that are reported: those in `REPORTED_TURNS`, and the last."""
    every = list(turns)
    return [turn for turn in every if turn in REPORTED_TURNS or turn == every[-1]]
