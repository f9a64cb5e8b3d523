"""build_tokenizer: a tokenizer of the `tokenizers` library from a GGUF file's vocabulary.

A GGUF file has the tokens, their types, and merges or scores. Of the rules that split text before
the merges it has only a name ("tokenizer.ggml.pre"); they are in llama.cpp's src/llama-vocab.cpp.
Supports byte-level BPE ("gpt2") and SentencePiece BPE ("llama").
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
# Control tokens whatever their type in the file, as in llama.cpp. Not those without "|", such as
# "</s>", which may be HTML.
ALWAYS_CONTROL = frozenset(token for token in END_TOKENS if "|" in token) | {"<end_of_turn>"}
SPACE = "\u2581"  # stands for a space in SentencePiece tokens

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _smollm_pre_tokenizer() -> Any:
    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])


def _gpt2_pre_tokenizer() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _llama3_pre_tokenizer() -> Any:
    split = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, to_bytes])


PRE_TOKENIZERS: Mapping[str, Callable[[], Any]] = {
    "smollm": _smollm_pre_tokenizer,
    "gpt-2": _gpt2_pre_tokenizer,
    "llama-bpe": _llama3_pre_tokenizer,
}
MAX_PIECE_CHARACTERS = 256  # of a SentencePiece token; 16 is usual, and every split is looked up
IGNORE_MERGES = ("llama-bpe",)  # a word that is in the vocabulary becomes one token


def build_tokenizer(file: GGUFFile) -> Any:
    """The `tokenizers.Tokenizer` that a GGUF file describes. It adds no special tokens to a text.

    Raises:
        BadCheckpoint: the vocabulary is missing or inconsistent.
        UnsupportedModel: the kind of tokenizer is not supported.
    """
    kind = file.require("tokenizer.ggml.model", str)
    tokens = file.require("tokenizer.ggml.tokens", list)
    if kind == "gpt2":
        tokenizer = _byte_level(file, tokens)
    elif kind == "llama":
        tokenizer = _sentencepiece(file, tokens)
    else:
        raise UnsupportedModel(
            _("{path}: tokenizer kind {kind!r} is not supported.").format(path=file.path, kind=kind)
        )
    kinds = file.get("tokenizer.ggml.token_type", np.ndarray)
    token_kinds = [
        (token, CONTROL if token in ALWAYS_CONTROL else kind)
        for token, kind in zip(tokens, [] if kinds is None else kinds.tolist(), strict=False)
    ]
    added = [
        AddedToken(token, normalized=False, special=kind == CONTROL)
        for token, kind in token_kinds
        if kind in (CONTROL, USER_DEFINED)
    ]
    tokenizer.add_tokens([token for token in added if not token.special])
    tokenizer.add_special_tokens([token for token in added if token.special])
    if tokenizer.get_vocab_size() != len(tokens):
        raise BadCheckpoint(_("{path}: a token is in its vocabulary twice.").format(path=file.path))
    return tokenizer


def _byte_level(file: GGUFFile, tokens: Sequence[str]) -> Any:
    pre = file.get("tokenizer.ggml.pre", str) or "gpt-2"
    if pre not in PRE_TOKENIZERS:
        known = ", ".join(PRE_TOKENIZERS)
        raise UnsupportedModel(
            _("{path}: the pre-tokenizer {pre!r} is not supported. Supported are: {known}.").format(
                path=file.path, pre=pre, known=known
            ),
            _("Use the model's folder from the hub instead (config.json and tokenizer.json)."),
        )
    halves = [merge.partition(" ") for merge in file.require("tokenizer.ggml.merges", list)]
    merges = [(left, right) for left, _, right in halves]
    tokenizer = Tokenizer(_bpe(file, tokens, merges, ignore_merges=pre in IGNORE_MERGES))
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[pre]()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(file: GGUFFile, tokens: Sequence[str]) -> Any:
    """SentencePiece BPE: two pieces merge if the result is a piece, the best score first."""
    scores = file.require("tokenizer.ggml.scores", np.ndarray).tolist()
    if len(scores) != len(tokens):
        raise BadCheckpoint(
            _("{path}: its vocabulary has {tokens} tokens but {scores} scores.").format(
                path=file.path, tokens=len(tokens), scores=len(scores)
            )
        )
    longest = max(map(len, tokens), default=0)
    if longest > MAX_PIECE_CHARACTERS:
        raise BadCheckpoint(
            _("{path}: a token has {longest:,} characters, which is too long.").format(
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
            _(
                "{path}: the id of its unknown token is {unknown}, but there are {tokens} tokens."
            ).format(path=file.path, unknown=unknown, tokens=len(tokens))
        )
    settings = {"byte_fallback": True, "fuse_unk": True, "unk_token": tokens[unknown]}
    tokenizer = Tokenizer(_bpe(file, tokens, merges, **settings))
    normalize: list[Any] = [normalizers.Replace(" ", SPACE)]
    decode: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if file.get("tokenizer.ggml.add_space_prefix", bool) is not False:
        normalize.insert(0, normalizers.Prepend(SPACE))
        decode.append(decoders.Strip(" ", 1, 0))
    tokenizer.normalizer = normalizers.Sequence(normalize)
    tokenizer.decoder = decoders.Sequence(decode)
    return tokenizer


def _bpe(
    file: GGUFFile, tokens: Sequence[str], merges: Sequence[tuple[str, str]], **settings: Any
) -> Any:
    try:
        return models.BPE({token: n for n, token in enumerate(tokens)}, merges, **settings)
    except Exception as error:  # tokenizers raises a bare Exception for an impossible merge
        raise BadCheckpoint(
            _("{path}: its vocabulary is inconsistent: {error}").format(path=file.path, error=error)
        ) from error
