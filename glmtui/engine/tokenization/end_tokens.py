"""Tokens whose name alone says that they end a turn.

Many checkpoints declare only the end-of-text token of their base model, but were trained to end
turns with another one.
"""

from __future__ import annotations

from collections.abc import Mapping

# llama.cpp's end-of-generation tokens, src/llama-vocab.cpp
END_TOKENS = frozenset(
    {
        "<|eot_id|>",
        "<|eom_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|flush|>",
        "<|calls|>",
        "<end_of_turn>",
        "<end_of_utterance>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<|eos|>",
        "<eos>",
        "</s>",
        "<EOT>",
        "_<EOT>",
        "< EOT >",
        "_< EOT >",
        "[EOT]",
        "[EOS]",
        "<｜end▁of▁sentence｜>",
        "<|fim_pad|>",
        "<|repo_name|>",
        "<|file_sep|>",
    }
)
# In OpenAI's harmony format <|end|> ends a part of a reply, such as the reasoning.
HARMONY_ENDS = frozenset({"<|return|>", "<|call|>"})


def turn_end_ids(tokens: Mapping[str, int]) -> frozenset[int]:
    """The ids of those tokens whose name says that they end a turn."""
    names = END_TOKENS - {"<|end|>"} if tokens.keys() >= HARMONY_ENDS else END_TOKENS
    return frozenset(tokens[name] for name in names & tokens.keys())


def turn_part_ids(tokens: Mapping[str, int]) -> frozenset[int]:
    """The ids that do not end a reply even if the chat template writes them after one."""
    is_harmony = tokens.keys() >= {*HARMONY_ENDS, "<|end|>"}
    return frozenset({tokens["<|end|>"]} if is_harmony else ())
