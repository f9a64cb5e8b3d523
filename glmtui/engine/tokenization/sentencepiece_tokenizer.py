"""Tokenizers with a SentencePiece file: ChatGLM-6B's Unigram file, and the BPE file of 2 and 3."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from glmtui.engine.catalog.model_folder import MAX_VOCABULARY_BYTES, read_model_file
from glmtui.engine.tokenization.sandboxed_tokenizer import SandboxedTokenizer
from glmtui.errors import BadCheckpoint
from glmtui.language import _


class SentencePieceTokenizer:
    """The ``tokenizer.model`` of ChatGLM2 and ChatGLM3, as an `api.Tokenizer`.

    Special tokens are not pieces: their ids follow those of the file. `encode` never returns one,
    so a special token that a user types stays text.

    Args:
        sandboxed: the loaded file.
        special: special tokens in the order of their ids.
        decode_special: whether `decode` writes special tokens out. ChatGLM3's does, because
            ``<|assistant|>`` in a reply separates a remark from a tool call; ChatGLM2's does not.
    """

    strips_leading_space = True

    def __init__(
        self, sandboxed: SandboxedTokenizer, special: Sequence[str], *, decode_special: bool
    ) -> None:
        self._sandboxed = sandboxed
        self._piece_count: int = sandboxed.facts["pieces"]
        self.special = {token: self._piece_count + i for i, token in enumerate(special)}
        self._decoded = {i: token for token, i in self.special.items()} if decode_special else {}

    def encode(self, text: str) -> list[int]:
        return self._sandboxed.encode_each([text])[0]

    def decode(self, ids: Sequence[int]) -> str:
        text: list[str] = []
        run: list[int] = []  # of pieces
        for i in ids:
            if i in self._decoded:
                text += self._decode_run(run), self._decoded[i]
                run = []
            elif self._is_piece(i):
                run.append(i)
        return "".join(text) + self._decode_run(run)

    def token_bytes(self, token_id: int) -> bytes:
        if token_id in self._decoded:
            return self._decoded[token_id].encode()
        return self._sandboxed.token_bytes(token_id) if self._is_piece(token_id) else b""

    def _is_piece(self, token_id: int) -> bool:
        return 2 < token_id < self._piece_count  # 0 is <unk> and the padding, 1 <s>, 2 </s>

    def _decode_run(self, ids: list[int]) -> str:
        # each run loses the space that SentencePiece adds before a text
        return self._sandboxed.decode(ids) if ids else ""


class IceTokenizer:
    """The ``ice_text.model`` of ChatGLM-6B, as an `api.Tokenizer`.

    A newline is the piece <n>, a tab <|tab|>, and 2 to 80 spaces <|blank_2|> to <|blank_80|>. The
    file normalises text (NFKC: full-width characters become ASCII, control characters are removed),
    so `decode(encode(text))` is the normalised text.

    Args:
        sandboxed: the loaded file, with all its 130,344 pieces.
        first_id: id of the first piece; 20,000 if the vocabulary starts with image tokens.

    Raises:
        BadCheckpoint: the file belongs to another model.
    """

    strips_leading_space = True

    def __init__(self, sandboxed: SandboxedTokenizer, first_id: int = 0) -> None:
        self._sandboxed = sandboxed
        self._first_id = first_id
        self._end: int = first_id + sandboxed.facts["pieces"]
        ids = sandboxed.piece_ids(_CONTROL_TOKENS)
        self.special = {t: first_id + i for t, i in zip(_CONTROL_TOKENS, ids, strict=True)}
        if sandboxed.facts["unknown"] in ids:
            raise BadCheckpoint(
                _("ice_text.model has no pieces such as [gMASK]; it is not ChatGLM-6B's."),
                _("Download the model again with: glmtui pull"),
            )

    def encode(self, text: str) -> list[int]:
        text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
        ids = self._sandboxed.encode_each([_SPACES.sub(_encode_spaces, text)])[0]
        return [self._first_id + i for i in ids] if self._first_id else ids

    def decode(self, ids: Sequence[int]) -> str:
        pieces = [i - self._first_id for i in ids if self._first_id <= i < self._end]
        return _decode_whitespace(self._sandboxed.decode(pieces)) if pieces else ""

    def token_bytes(self, token_id: int) -> bytes:
        if not self._first_id <= token_id < self._end:
            return b""
        piece = self._sandboxed.token_bytes(token_id - self._first_id)
        if piece.startswith(b"<"):
            return _decode_whitespace(piece.decode("utf-8", "replace")).encode()
        return piece


def load_sentencepiece(path: Path) -> SandboxedTokenizer | None:
    """The SentencePiece file at `path`; None if there is none. Raises BadCheckpoint."""
    return _load(path, b"") if path.is_file() else None


def load_ice_text(path: Path) -> SandboxedTokenizer | None:
    """ChatGLM-6B's file, of any revision; None if there is none. Raises BadCheckpoint.

    The file of the first revision has 130,000 pieces; the original code adds the others. The file
    of later revisions has all of them.
    """
    sandboxed = load_sentencepiece(path)
    if sandboxed is None or sandboxed.piece_ids(["<sop>"]) != [sandboxed.facts["unknown"]]:
        return sandboxed
    return _load(path, _added_pieces())


def _load(path: Path, added: bytes) -> SandboxedTokenizer:
    """The file with further protobuf fields appended."""
    sandboxed = SandboxedTokenizer(
        "sentencepiece",
        lambda: read_model_file(path, MAX_VOCABULARY_BYTES) + added,
        lambda error: BadCheckpoint(
            _("{path} is not a SentencePiece vocabulary: {error}").format(path=path, error=error),
            _("Download the model again with: glmtui pull"),
        ),
    )
    sandboxed.wait()
    return sandboxed


# ---- ChatGLM-6B's whitespace

_SPACES = re.compile(" {2,}")
_WHITESPACE_TOKEN = re.compile(r"<n>|<\|tab\|>|<\|blank_([2-9]|[1-7][0-9]|80)\|>")


def _encode_spaces(spaces: re.Match[str]) -> str:
    eighties, rest = divmod(len(spaces[0]), 80)
    last = " " if rest == 1 else f"<|blank_{rest}|>" if rest else ""
    return "<|blank_80|>" * eighties + last


def _decode_whitespace(text: str) -> str:
    def decode(token: re.Match[str]) -> str:
        if token[1]:
            return " " * int(token[1])
        return "\n" if token[0] == "<n>" else "\t"

    return _WHITESPACE_TOKEN.sub(decode, text)


# ---- the pieces that the file of the first revision lacks

_CONTROL_TOKENS = (
    *("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>"),
)
_CONTROL, _USER_DEFINED, _BYTE = 3, 4, 6  # SentencePiece.Type in sentencepiece_model.proto


def _added_pieces() -> bytes:
    """Pieces 130,000 to 130,343, as bytes to append to a serialised ModelProto.

    Concatenating two serialised protobuf messages merges them: repeated fields are appended, and
    single fields are overridden.
    """
    blanks = ("<|tab|>", *(f"<|blank_{n}|>" for n in range(2, 81)))
    added = [_piece(token, _CONTROL) for token in _CONTROL_TOKENS]
    added += [_piece(token, _USER_DEFINED) for token in blanks]
    added += [_piece(f"<0x{byte:02X}>", _BYTE) for byte in range(256)]
    byte_fallback = b"\x98\x02\x01"  # TrainerSpec field 35 = true
    return b"".join(added) + b"\x12" + bytes([len(byte_fallback)]) + byte_fallback


def _piece(token: str, kind: int) -> bytes:
    """ModelProto field 1: a SentencePiece; its fields 1 to 3 are text, score (0.0) and type."""
    text = token.encode()
    body = b"\x0a" + bytes([len(text)]) + text + b"\x15\0\0\0\0\x18" + bytes([kind])
    return b"\x0a" + bytes([len(body)]) + body
