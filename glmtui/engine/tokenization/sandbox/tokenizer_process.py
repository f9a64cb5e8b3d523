"""The process in which the tokenizer of a model's folder runs, within limits of its own.

The libraries that read such files are native code: a crafted one can take all memory, abort the
process, or never come to an end. Answers the questions of `bounded_tokenizer`.
"""

from __future__ import annotations

import base64
import binascii
import importlib.util
import re
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_letters
from typing import Any, Protocol

from glmtui.engine.tokenization.end_tokens import END_TOKENS
from glmtui.engine.tokenization.sandbox.bounded_process import read_frame, write_frame
from glmtui.engine.tokenization.sandbox.piece_model import build_tokenizer, read_pieces
from glmtui.engine.tokenization.sandbox.process_limits import limit_memory, limit_time
from glmtui.engine.tokenization.sandbox.prompt_encoder import PromptEncoder

MOST_TOKENS = 1 << 22  # ids beyond have no text; 262,144 are the most of a known model
MOST_VOCABULARY_BYTES = 64 << 20  # of all tokens together
MOST_SPECIAL, MOST_SPECIAL_CHARACTERS = 20_000, 1 << 20  # Gemma 3 has 6,242
# beyond what is mapped before the file is read: the library takes 12 times a tokenizer.json's size
MEMORY_BYTES, MEMORY_PER_BYTE = 512 << 20, 16


class Refused(Exception):
    """The file is none of that kind, or beyond a limit of ours."""


class Backend(Protocol):
    """A library with a file loaded into it.

    Attributes:
        facts: what else the parent must know, as JSON.
    """

    facts: dict[str, Any]

    def encode(self, texts: Sequence[str]) -> list[list[int]]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def vocabulary(self) -> Iterator[bytes]:
        """The bytes of each id from 0 on; see `api.Tokenizer.token_bytes`."""
        ...


def main() -> None:
    """Answers until there are no more questions, or the system ends it for what it takes."""
    questions, answers = sys.stdin.buffer, sys.stdout.buffer
    backend: Backend | None = None
    while (frame := read_frame(questions)) is not None:
        asked, payload = frame
        try:
            if backend is None:
                kind = BACKENDS[asked["kind"]]
                kind.prepare()
                limit_memory(MEMORY_BYTES + MEMORY_PER_BYTE * asked["nbytes"])
                limit_time(asked["seconds"])
                backend = kind(payload, asked)
                del payload
                answer, content = backend.facts, b""
            else:
                limit_time(asked["seconds"])
                answer, content = _answer(backend, asked, payload)
        except MemoryError:
            answer, content = {"error": "it takes too much memory"}, b""
        except BaseException as error:  # a panic in a Rust library is no Exception
            answer, content = {"error": str(error)[:300] or type(error).__name__}, b""
        write_frame(answers, answer, content)


def _answer(
    backend: Backend, asked: Mapping[str, Any], payload: bytes
) -> tuple[dict[str, Any], bytes]:
    if asked["do"] == "encode":
        texts, at = [], 0
        for size in asked["sizes"]:
            texts.append(payload[at : at + size].decode())
            at += size
        encoded = backend.encode(texts)
        ids = array("I", (i for one in encoded for i in one))
        return {"counts": [len(one) for one in encoded]}, ids.tobytes()
    if asked["do"] == "decode":
        return {}, backend.decode(array("I", payload)).encode("utf-8", "replace")
    if asked["do"] == "vocabulary":
        return _vocabulary(backend)
    if asked["do"] == "prompt" and isinstance(backend, Fast):
        prompt = backend.prompt.encode(payload.decode(), asked["special"], typed=asked["typed"])
        return {}, array("I", prompt).tobytes()
    if isinstance(backend, Pieces):
        return backend.answer(asked)
    raise ValueError(f"unknown question {asked['do']}")


def _vocabulary(backend: Backend) -> tuple[dict[str, Any], bytes]:
    """Where each token's bytes end, as uint32, and behind that the bytes of all."""
    ends, joined = array("I"), bytearray()
    for _token, spelled in zip(range(MOST_TOKENS), backend.vocabulary(), strict=False):
        joined += spelled
        if len(joined) > MOST_VOCABULARY_BYTES:
            raise Refused(f"its tokens have more than {MOST_VOCABULARY_BYTES >> 20} MB")
        ends.append(len(joined))
    return {"tokens": len(ends)}, ends.tobytes() + bytes(joined)


# ---- tokenizer.json


class Fast:
    """A ``tokenizer.json``, read by Hugging Face's tokenizers library."""

    @staticmethod
    def prepare() -> None:
        """Imports the library."""
        import tokenizers  # noqa: F401

    def __init__(self, content: bytes, asked: Mapping[str, Any]) -> None:
        from tokenizers.decoders import ByteLevel

        fast = self.read(content, asked)
        # these are for batches of training texts: they cut a prompt short, or fill it up
        fast.no_truncation()
        fast.no_padding()
        # special tokens that a person types stay the characters they are
        fast.encode_special_tokens = True
        _add_tokens(fast, asked)
        self._fast = fast
        self._byte_level = isinstance(fast.decoder, ByteLevel)
        every = fast.get_added_tokens_decoder()
        added = {token.content: token_id for token_id, token in every.items()}
        special = {t.content: i for i, t in every.items() if t.special and t.content}
        if len(special) > MOST_SPECIAL or sum(map(len, special)) > MOST_SPECIAL_CHARACTERS:
            raise Refused(f"it has {len(special):,} special tokens")
        self._special_ids = frozenset(special.values())
        self.prompt = PromptEncoder(fast)
        words = [fast.token_to_id(f"▁{letter}") for letter in ascii_letters]
        begun = [self.decode([word])[:1] for word in words if word is not None]
        self.facts = {
            "special": special,
            "ends": {name: added[name] for name in END_TOKENS & added.keys()},
            "strips_leading_space": bool(begun) and " " not in begun,
        }

    def read(self, content: bytes, asked: Mapping[str, Any]) -> Any:
        """The library's tokenizer for the file."""
        from tokenizers import Tokenizer

        return Tokenizer.from_buffer(content)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        # this one notes no places in the text
        batch = self._fast.encode_batch_fast(list(texts), add_special_tokens=False)
        return [list(one.ids) for one in batch]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        known = [i for i in ids if i not in self.prompt.aliases]
        return str(self._fast.decode(known, skip_special_tokens=True))

    def vocabulary(self) -> Iterator[bytes]:
        """The bytes of each id."""
        tokens = {i: token for token, i in self._fast.get_vocab(with_added_tokens=True).items()}
        tokens |= {i: t.content for i, t in self._fast.get_added_tokens_decoder().items()}
        tokens |= dict.fromkeys(self._special_ids, "")
        tokens = {i: token for i, token in tokens.items() if i not in self.prompt.aliases}
        last = max(tokens, default=-1)
        return (self._token_bytes(tokens.get(i, "")) for i in range(min(last + 1, MOST_TOKENS)))

    def _token_bytes(self, token: str) -> bytes:
        if self._byte_level:
            if OF_BYTES.fullmatch(token):
                return token.translate(BYTE_OF_CHAR).encode("latin-1")
            return token.encode()  # an added token, kept as it is written
        if re.fullmatch(r"<0x[0-9A-F]{2}>", token):
            return bytes([int(token[3:5], 16)])
        return token.replace("▁", " ").encode()


def _add_tokens(fast: Any, asked: Mapping[str, Any]) -> None:
    """Adds what the folder's other files say of added tokens, as transformers does.

    Args:
        asked: ``added``, the keyword arguments of an AddedToken by id; ``named``, tokens that are
            special whatever else is said.
    """
    from tokenizers import AddedToken

    known = fast.get_added_tokens_decoder()
    names = {token.content for token in known.values()}
    tokens, free = [], fast.get_vocab_size()
    for key, said in sorted(asked.get("added", {}).items(), key=lambda item: int(item[0])):
        token, token_id = AddedToken(**said), int(key)
        found = fast.token_to_id(token.content)
        if repr(known.get(token_id)) != repr(token) and token_id == (
            free if found is None else found
        ):
            tokens.append(token)
            free += found is None
            names.add(token.content)
    for name in asked.get("named", ()):
        if name not in names and fast.token_to_id(name) is not None:
            tokens.append(AddedToken(name, special=True))
    if tokens:
        fast.add_tokens(tokens)
    for token in fast.get_added_tokens_decoder().values():
        if token.content in END_TOKENS and not token.special:
            # it ends turns, so nobody may type it: llama.cpp takes it for a control token too
            token.special = True
            fast.add_tokens([token])


def _byte_characters() -> dict[int, int]:
    """GPT-2's stand-ins: each byte as a printable character (openai/gpt-2, src/encoder.py)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {b: b for b in printable} | {0x100 + i: b for i, b in enumerate(others)}


BYTE_OF_CHAR = _byte_characters()
OF_BYTES = re.compile(f"[{re.escape(''.join(map(chr, BYTE_OF_CHAR)))}]*")


# ---- SentencePiece


class Pieces:
    """A SentencePiece model file."""

    @staticmethod
    def prepare() -> None:
        """Imports the library."""
        import sentencepiece  # noqa: F401

    def __init__(self, content: bytes, asked: Mapping[str, Any]) -> None:
        from sentencepiece import SentencePieceProcessor

        self._processor = SentencePieceProcessor()
        self._processor.load_from_serialized_proto(content)
        self.facts = {
            "pieces": self._processor.get_piece_size(),
            "unknown": self._processor.unk_id(),
        }

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        return [self._processor.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, all of them pieces of the file."""
        return str(self._processor.decode(list(ids)))

    def vocabulary(self) -> Iterator[bytes]:
        """The bytes that each piece adds in the middle of a text."""
        return map(self._piece_bytes, range(self._processor.get_piece_size()))

    def answer(self, asked: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
        """What is asked of SentencePiece files alone."""
        if asked["do"] == "ids":
            return {"ids": [self._processor.piece_to_id(piece) for piece in asked["pieces"]]}, b""
        return {}, self._processor.serialized_model_proto()

    def _piece_bytes(self, piece_id: int) -> bytes:
        if self._processor.is_control(piece_id):
            return b""
        if self._processor.is_unknown(piece_id):
            return str(self._processor.decode([piece_id])).encode()
        piece: str = self._processor.id_to_piece(piece_id)
        if self._processor.is_byte(piece_id):
            return bytes([int(piece[3:5], 16)])  # <0xE4>
        return piece.replace("▁", " ").encode()


# ---- tiktoken


class Ranks:
    """A tiktoken file: a piece in base64 and its rank in each line; special tokens follow them.

    Asked for with ``split``, the regular expression that parts words, and ``special``, the tags.
    """

    @staticmethod
    def prepare() -> None:
        """Imports the library."""
        import tiktoken  # noqa: F401

    def __init__(self, content: bytes, asked: Mapping[str, Any]) -> None:
        from tiktoken import Encoding

        ranks: dict[bytes, int] = {}
        try:
            for line in content.split(b"\n"):
                if line:
                    piece, rank = line.split()
                    ranks[base64.b64decode(piece, validate=True)] = int(rank)
        except binascii.Error as error:
            raise Refused(str(error)) from error
        if sorted(ranks.values()) != list(range(len(ranks))) or not ranks:
            raise Refused("ranks are missing")
        special = {tag: len(ranks) + i for i, tag in enumerate(asked["special"])}
        self._encoding = Encoding(
            "ranks", pat_str=asked["split"], mergeable_ranks=ranks, special_tokens=special
        )
        self.facts = {"special": special}

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        return [self._encoding.encode_ordinary(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens written out."""
        return str(self._encoding.decode(list(ids)))

    def vocabulary(self) -> Iterator[bytes]:
        """The bytes of each id."""
        every = range(self._encoding.max_token_value + 1)
        return map(self._encoding.decode_single_token_bytes, every)


# ---- what transformers makes of other files


class Converted(Fast):
    """The files of a folder, its path the content, as transformers converts them."""

    @staticmethod
    def prepare() -> None:
        """Imports the library, and not torch, which it would look for: it takes seconds."""
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, package=None: (
            None if name.partition(".")[0] == "torch" else find(name, package)
        )
        import transformers.models.auto.tokenization_auto  # noqa: F401

    def read(self, content: bytes, asked: Mapping[str, Any]) -> Any:
        """Raises Refused."""
        from transformers import AutoTokenizer

        made = AutoTokenizer.from_pretrained(
            content.decode(), trust_remote_code=False, local_files_only=True
        )
        fast = getattr(made, "backend_tokenizer", None)
        if fast is None:
            raise Refused(f"its tokenizer is Python code of its own ({type(made).__name__})")
        return super().read(fast.to_str().encode(), asked)


class PieceFile(Fast):
    """A SentencePiece model file, as a tokenizer that knows added tokens.

    Asked for with ``added`` and ``legacy``; see `piece_model.build_tokenizer`.
    """

    def read(self, content: bytes, asked: Mapping[str, Any]) -> Any:
        """Raises NotPieces."""
        added = {int(token_id): said for token_id, said in asked["added"].items()}
        return build_tokenizer(read_pieces(content), added, asked["legacy"])


BACKENDS: Mapping[str, Any] = {
    "tokenizers": Fast,
    "sentencepiece": Pieces,
    "tiktoken": Ranks,
    "transformers": Converted,
    "piece_model": PieceFile,
}
