"""The process that loads the tokenizer file of a model, with limits of time and memory.

The libraries that read such files are native code: a crafted file can take all memory, abort the
process, or loop forever. `sandboxed_tokenizer` sends the requests.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping
from typing import Any

from glmtui.engine.tokenization.sandbox.backend import MAX_TOKENS, Backend, InvalidTokenizer
from glmtui.engine.tokenization.sandbox.resource_limits import limit_memory, limit_time
from glmtui.engine.tokenization.sandbox.sandboxed_process import read_frame, write_frame
from glmtui.engine.tokenization.sandbox.sentencepiece_backend import SentencePieceBackend
from glmtui.engine.tokenization.sandbox.tiktoken_backend import TiktokenBackend
from glmtui.engine.tokenization.sandbox.tokenizers_backend import (
    ConvertedSentencePieceBackend,
    TokenizersBackend,
    TransformersBackend,
)

MAX_VOCABULARY_BYTES = 64 << 20  # of all tokens together
# Allowed beyond what is mapped before the file is read. The `tokenizers` library takes 12 times
# the size of a tokenizer.json.
MEMORY_BYTES, MEMORY_PER_BYTE = 512 << 20, 16
BACKENDS: Mapping[str, Any] = {
    "tokenizers": TokenizersBackend,
    "sentencepiece": SentencePieceBackend,
    "tiktoken": TiktokenBackend,
    "transformers": TransformersBackend,
    "converted_sentencepiece": ConvertedSentencePieceBackend,
}


def main() -> None:
    """Replies until stdin ends, or until the system kills the process at a limit.

    The first request loads the file, which is its payload.
    """
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    backend: Backend | None = None
    while (frame := read_frame(requests)) is not None:
        request, payload = frame
        try:
            if backend is None:
                backend_class = BACKENDS[request["kind"]]
                backend_class.prepare()
                limit_memory(MEMORY_BYTES + MEMORY_PER_BYTE * request["nbytes"])
                limit_time(request["seconds"])
                backend = backend_class(payload, request)
                del payload
                reply, content = backend.facts, b""
            else:
                limit_time(request["seconds"])
                reply, content = _reply(backend, request, payload)
        except MemoryError:
            reply, content = {"error": "it needs too much memory"}, b""
        except BaseException as error:  # a panic of a Rust library is not an Exception
            reply, content = {"error": str(error)[:300] or type(error).__name__}, b""
        write_frame(replies, reply, content)


def _reply(
    backend: Backend, request: Mapping[str, Any], payload: bytes
) -> tuple[dict[str, Any], bytes]:
    match request["op"], backend:
        case "encode", _:
            texts, start = [], 0
            for size in request["sizes"]:
                texts.append(payload[start : start + size].decode())
                start += size
            encoded = backend.encode(texts)
            ids = array("I", (i for text_ids in encoded for i in text_ids))
            return {"counts": [len(text_ids) for text_ids in encoded]}, ids.tobytes()
        case "decode", _:
            return {}, backend.decode(array("I", payload)).encode("utf-8", "replace")
        case "vocabulary", _:
            return _vocabulary(backend)
        case "prompt", TokenizersBackend() as tokenizers_backend:
            prompt = tokenizers_backend.prompt_encoder.encode(
                payload.decode(), request["special"], has_typed=request["has_typed"]
            )
            return {}, array("I", prompt).tobytes()
        case "piece_ids", SentencePieceBackend() as sentencepiece_backend:
            return {"ids": sentencepiece_backend.piece_ids(request["pieces"])}, b""
        case "serialize", SentencePieceBackend() as sentencepiece_backend:
            return {}, sentencepiece_backend.serialize()
    raise ValueError(f"unknown request {request['op']}")


def _vocabulary(backend: Backend) -> tuple[dict[str, Any], bytes]:
    """The payload is the end of each token as uint32, then the bytes of all tokens."""
    ends, joined = array("I"), bytearray()
    for _index, token in zip(range(MAX_TOKENS), backend.vocabulary(), strict=False):
        joined += token
        if len(joined) > MAX_VOCABULARY_BYTES:
            raise InvalidTokenizer(f"its tokens have more than {MAX_VOCABULARY_BYTES >> 20} MB")
        ends.append(len(joined))
    return {"tokens": len(ends)}, ends.tobytes() + bytes(joined)
