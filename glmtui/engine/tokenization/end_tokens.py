"""Tokens whose name alone says that they end a turn.

Many checkpoints name only the base model's end-of-text token as their end, and were trained to
end turns with another one. Knows no files.
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
# in OpenAI's harmony format <|end|> only ends a part of a reply, such as the reasoning
HARMONY_ENDS = frozenset({"<|return|>", "<|call|>"})


def end_ids(added: Mapping[str, int]) -> frozenset[int]:
    """Which of a tokenizer's added tokens end a turn by their name."""
    names = END_TOKENS - {"<|end|>"} if added.keys() >= HARMONY_ENDS else END_TOKENS
    return frozenset(added[name] for name in names & added.keys())


def inside_turns(added: Mapping[str, int]) -> frozenset[int]:
    """Which of them must not end a reply although a chat template may write them behind one."""
    return frozenset({added["<|end|>"]} if added.keys() >= {*HARMONY_ENDS, "<|end|>"} else ())
