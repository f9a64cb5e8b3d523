"""Backends of Hugging Face's `tokenizers` library: a tokenizer.json, or files converted to one."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_letters
from typing import Any

from glmtui.engine.tokenization.end_tokens import END_TOKENS
from glmtui.engine.tokenization.sandbox.backend import MAX_TOKENS, InvalidTokenizer
from glmtui.engine.tokenization.sandbox.prompt_encoder import PromptEncoder
from glmtui.engine.tokenization.sandbox.sentencepiece_conversion import (
    build_tokenizer,
    read_sentencepiece_model,
)

MAX_SPECIAL = 20_000  # special tokens; Gemma 3 has 6,242
MAX_SPECIAL_CHARACTERS = 1 << 20  # of all special tokens together


class TokenizersBackend:
    """A ``tokenizer.json``.

    Options: see `_add_tokens`. Facts: ``special``, the id of each special token; ``ends``, the id
    of each token that ends a turn by its name; ``strips_leading_space``, see `api.Tokenizer`.
    """

    @staticmethod
    def prepare() -> None:
        """Imports the library."""
        import tokenizers  # noqa: F401

    def __init__(self, content: bytes, options: Mapping[str, Any]) -> None:
        from tokenizers.decoders import ByteLevel

        tokenizer = self.read(content, options)
        # these are for batches of training texts: they would truncate or pad a prompt
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # special tokens that a user types stay text
        tokenizer.encode_special_tokens = True
        _add_tokens(tokenizer, options)
        self._tokenizer = tokenizer
        self._byte_level = isinstance(tokenizer.decoder, ByteLevel)
        added = tokenizer.get_added_tokens_decoder()
        added_ids = {token.content: i for i, token in added.items()}
        special = {t.content: i for i, t in added.items() if t.special and t.content}
        if len(special) > MAX_SPECIAL or sum(map(len, special)) > MAX_SPECIAL_CHARACTERS:
            raise InvalidTokenizer(f"it has {len(special):,} special tokens")
        self._special_ids = frozenset(special.values())
        self.prompt_encoder = PromptEncoder(tokenizer)
        words = [tokenizer.token_to_id(f"▁{letter}") for letter in ascii_letters]
        first_characters = [self.decode([word])[:1] for word in words if word is not None]
        self.facts = {
            "special": special,
            "ends": {name: added_ids[name] for name in END_TOKENS & added_ids.keys()},
            "strips_leading_space": bool(first_characters) and " " not in first_characters,
        }

    def read(self, content: bytes, options: Mapping[str, Any]) -> Any:
        """The `tokenizers.Tokenizer` of the file."""
        from tokenizers import Tokenizer

        return Tokenizer.from_buffer(content)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        # the fast variant does not compute offsets
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [list(encoding.ids) for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """Special tokens are left out."""
        known = [i for i in ids if i not in self.prompt_encoder.aliases]
        return str(self._tokenizer.decode(known, skip_special_tokens=True))

    def vocabulary(self) -> Iterator[bytes]:
        ids = self._tokenizer.get_vocab(with_added_tokens=True)
        tokens = {i: token for token, i in ids.items()}
        tokens |= {i: t.content for i, t in self._tokenizer.get_added_tokens_decoder().items()}
        tokens |= dict.fromkeys(self._special_ids, "")
        tokens = {i: t for i, t in tokens.items() if i not in self.prompt_encoder.aliases}
        last = max(tokens, default=-1)
        return (self._token_bytes(tokens.get(i, "")) for i in range(min(last + 1, MAX_TOKENS)))

    def _token_bytes(self, token: str) -> bytes:
        if self._byte_level:
            if BYTE_LEVEL_TOKEN.fullmatch(token):
                return token.translate(BYTE_OF_CHAR).encode("latin-1")
            return token.encode()  # an added token, which is plain text
        if re.fullmatch(r"<0x[0-9A-F]{2}>", token):
            return bytes([int(token[3:5], 16)])
        return token.replace("▁", " ").encode()


class TransformersBackend(TokenizersBackend):
    """Other files, as transformers converts them. The content is the path of their folder."""

    @staticmethod
    def prepare() -> None:
        """Imports the library without torch, which takes seconds to import."""
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, package=None: (
            None if name.partition(".")[0] == "torch" else find(name, package)
        )
        import transformers.models.auto.tokenization_auto  # noqa: F401

    def read(self, content: bytes, options: Mapping[str, Any]) -> Any:
        """Raises InvalidTokenizer."""
        from transformers import AutoTokenizer

        converted = AutoTokenizer.from_pretrained(
            content.decode(), trust_remote_code=False, local_files_only=True
        )
        tokenizer = getattr(converted, "backend_tokenizer", None)
        if tokenizer is None:
            name = type(converted).__name__
            raise InvalidTokenizer(f"its tokenizer is Python code of its own ({name})")
        return super().read(tokenizer.to_str().encode(), options)


class ConvertedSentencePieceBackend(TokenizersBackend):
    """A SentencePiece model file with added tokens.

    Options: ``added`` and ``legacy``; see `sentencepiece_conversion.build_tokenizer`.
    """

    def read(self, content: bytes, options: Mapping[str, Any]) -> Any:
        """Raises InvalidTokenizer."""
        added = {int(token_id): entry for token_id, entry in options["added"].items()}
        return build_tokenizer(read_sentencepiece_model(content), added, options["legacy"])


def _add_tokens(tokenizer: Any, options: Mapping[str, Any]) -> None:
    """Adds the tokens that the folder's other files declare, as transformers does.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.
        options: ``added``, keyword arguments of AddedToken by id; ``named``, tokens that are
            special whatever the files say.
    """
    from tokenizers import AddedToken

    known = tokenizer.get_added_tokens_decoder()
    names = {token.content for token in known.values()}
    tokens, next_id = [], tokenizer.get_vocab_size()
    for key, entry in sorted(options.get("added", {}).items(), key=lambda item: int(item[0])):
        token, token_id = AddedToken(**entry), int(key)
        current_id = tokenizer.token_to_id(token.content)
        if repr(known.get(token_id)) != repr(token) and token_id == (
            next_id if current_id is None else current_id
        ):
            tokens.append(token)
            next_id += current_id is None
            names.add(token.content)
    for name in options.get("named", ()):
        if name not in names and tokenizer.token_to_id(name) is not None:
            tokens.append(AddedToken(name, special=True))
    if tokens:
        tokenizer.add_tokens(tokens)
    for token in tokenizer.get_added_tokens_decoder().values():
        if token.content in END_TOKENS and not token.special:
            # a user must not be able to type an end of a turn; llama.cpp makes it special too
            token.special = True
            tokenizer.add_tokens([token])


def _byte_characters() -> dict[int, int]:
    """The byte of each code point in GPT-2's byte-level text (openai/gpt-2, src/encoder.py)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {b: b for b in printable} | {0x100 + i: b for i, b in enumerate(others)}


BYTE_OF_CHAR = _byte_characters()
BYTE_LEVEL_TOKEN = re.compile(f"[{re.escape(''.join(map(chr, BYTE_OF_CHAR)))}]*")
