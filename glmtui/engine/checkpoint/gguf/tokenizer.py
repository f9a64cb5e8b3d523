"""From a GGUF file's vocabulary to a tokenizer of the `tokenizers` library.

A GGUF file keeps the tokens, their types, and merges or scores; how text is cut before the merges
apply is only a name ("tokenizer.ggml.pre"), whose rules are in llama.cpp's src/llama-vocab.cpp.
Knows two kinds: byte-level BPE ("gpt2") and SentencePiece BPE ("llama"). Knows no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from glmtui.engine.checkpoint.gguf.file import GGUFFile
from glmtui.engine.tokenization.end_tokens import END_TOKENS
from glmtui.errors import BadCheckpoint, UnsupportedModel
from glmtui.language import _

CONTROL, USER_DEFINED = 3, 4  # values of tokenizer.ggml.token_type
# whatever type the file says, as llama.cpp has it; "</s>" and the like may be HTML
SPELLED_ENDS = frozenset(token for token in END_TOKENS if "|" in token) | {"<end_of_turn>"}
SPACE = "\u2581"  # how SentencePiece spells a space

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _digit_by_digit() -> Any:
    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])


def _gpt2() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _llama3() -> Any:
    split = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated")
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, spell])


PRE_TOKENIZERS: Mapping[str, Callable[[], Any]] = {
    "smollm": _digit_by_digit,
    "gpt-2": _gpt2,
    "llama-bpe": _llama3,
}
MOST_CHARACTERS = 256  # of a SentencePiece token; 16 is usual
WHOLE_FIRST = ("llama-bpe",)  # a word that is a token is taken as it is, merges or not


def build_tokenizer(file: GGUFFile) -> Any:
    """The `tokenizers.Tokenizer` a GGUF file describes; it adds no special tokens of its own.

    Raises:
        BadCheckpoint: the vocabulary is missing or contradicts itself.
        UnsupportedModel: a kind of tokenizer this program does not know.
    """
    kind = file.need("tokenizer.ggml.model", str)
    tokens = file.need("tokenizer.ggml.tokens", list)
    if kind == "gpt2":
        tokenizer = _byte_level(file, tokens)
    elif kind == "llama":
        tokenizer = _sentencepiece(file, tokens)
    else:
        raise UnsupportedModel(
            _("{path}: its tokenizer is of the unknown kind {kind!r}.").format(
                path=file.path, kind=kind
            )
        )
    kinds = file.get("tokenizer.ggml.token_type", np.ndarray)
    marked = [
        (token, CONTROL if token in SPELLED_ENDS else kind)
        for token, kind in zip(tokens, [] if kinds is None else kinds.tolist(), strict=False)
    ]
    added = [
        AddedToken(token, normalized=False, special=kind == CONTROL)
        for token, kind in marked
        if kind in (CONTROL, USER_DEFINED)
    ]
    tokenizer.add_tokens([token for token in added if not token.special])
    tokenizer.add_special_tokens([token for token in added if token.special])
    if tokenizer.get_vocab_size() != len(tokens):
        raise BadCheckpoint(
            _("{path}: its vocabulary names the same token twice.").format(path=file.path)
        )
    return tokenizer


def _byte_level(file: GGUFFile, tokens: Sequence[str]) -> Any:
    pre = file.get("tokenizer.ggml.pre", str) or "gpt-2"
    if pre not in PRE_TOKENIZERS:
        known = ", ".join(PRE_TOKENIZERS)
        raise UnsupportedModel(
            _("{path}: its tokenizer cuts text the way {pre!r} does; known are {known}.").format(
                path=file.path, pre=pre, known=known
            ),
            _("Use the model's own folder from the hub (config.json, tokenizer.json) instead."),
        )
    halves = [merge.partition(" ") for merge in file.need("tokenizer.ggml.merges", list)]
    merges = [(left, right) for left, _, right in halves]
    tokenizer = Tokenizer(_bpe(file, tokens, merges, ignore_merges=pre in WHOLE_FIRST))
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[pre]()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(file: GGUFFile, tokens: Sequence[str]) -> Any:
    """SentencePiece BPE: a pair of pieces merges if the whole is a piece, best score first."""
    scores = file.need("tokenizer.ggml.scores", np.ndarray).tolist()
    if len(scores) != len(tokens):
        raise BadCheckpoint(
            _("{path}: {tokens} tokens but {scores} scores.").format(
                path=file.path, tokens=len(tokens), scores=len(scores)
            )
        )
    longest = max(map(len, tokens), default=0)
    if longest > MOST_CHARACTERS:  # every cut of each is looked up below
        raise BadCheckpoint(
            _("{path}: one of its tokens has {longest:,} characters.").format(
                path=file.path, longest=longest
            )
        )
    ids = {token: n for n, token in enumerate(tokens)}
    pairs = [
        (-scores[n], ids[token[:cut]], ids[token[cut:]])
        for token, n in ids.items()
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    ]
    merges = [(tokens[left], tokens[right]) for _, left, right in sorted(pairs)]
    unknown = file.get("tokenizer.ggml.unknown_token_id", int) or 0
    if not 0 <= unknown < len(tokens):
        raise BadCheckpoint(
            _("{path}: its unknown token is {unknown} of {tokens}.").format(
                path=file.path, unknown=unknown, tokens=len(tokens)
            )
        )
    settings = {"byte_fallback": True, "fuse_unk": True, "unk_token": tokens[unknown]}
    tokenizer = Tokenizer(_bpe(file, tokens, merges, **settings))
    spell: list[Any] = [normalizers.Replace(" ", SPACE)]
    read: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if file.get("tokenizer.ggml.add_space_prefix", bool) is not False:
        spell.insert(0, normalizers.Prepend(SPACE))
        read.append(decoders.Strip(" ", 1, 0))
    tokenizer.normalizer = normalizers.Sequence(spell)
    tokenizer.decoder = decoders.Sequence(read)
    return tokenizer


def _bpe(
    file: GGUFFile, tokens: Sequence[str], merges: Sequence[tuple[str, str]], **settings: Any
) -> Any:
    try:
        return models.BPE({token: n for n, token in enumerate(tokens)}, merges, **settings)
    except Exception as error:  # the Rust side raises bare Exception for an impossible merge
        raise BadCheckpoint(
            _("{path}: its tokenizer does not fit together: {error}").format(
                path=file.path, error=error
            )
        ) from error
