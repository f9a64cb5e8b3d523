"""SandboxedTokenizer: the tokenizer file of a model's folder, loaded in a sandboxed process.

The bytes of all tokens are fetched once and kept here, so that decoding a reply token by token
needs no communication with the process.
"""

from __future__ import annotations

import hashlib
import threading
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal, NoReturn

from glmtui.engine.tokenization.sandbox.sandboxed_process import (
    LIMIT_EXCEEDED,
    ProcessEnded,
    SandboxedProcess,
)
from glmtui.errors import EngineError, GlmtuiError
from glmtui.language import N_, _

Kind = Literal["tokenizers", "sentencepiece", "tiktoken", "transformers", "converted_sentencepiece"]

# Limits of CPU time per request: a constant, and a rate. The slowest known machine is ten times
# faster than these rates.
MIN_SECONDS = 10.0
MIN_RATE = 20_000  # characters or tokens per second
MIN_LOAD_RATE = 1 << 20  # bytes of the file per second
# With threads of its own the library could hit a limit in a thread that has another request.
ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "HOME": "/"}
HINT = N_("Use the tokenizer file that the model was published with, or choose another model.")


class SandboxedTokenizer:
    """A tokenizer file in a process of its own. The constructor does not wait for it to load.

    Args:
        kind: the library that reads the file.
        read: returns the content of the file; called again if the process must be restarted.
        make_error: makes the error from its cause if the file cannot be loaded.
        nbytes: size of what is loaded in addition to what `read` returns.
        options: arguments of the backend; see `sandbox.backend` and its implementations.
    """

    def __init__(
        self,
        kind: Kind,
        read: Callable[[], bytes],
        make_error: Callable[[str], GlmtuiError],
        nbytes: int = 0,
        **options: Any,
    ) -> None:
        self._load_request = {"kind": kind, **options}
        self._nbytes = nbytes
        self._read = read
        self._make_error = make_error
        self._lock = threading.RLock()
        self._process: SandboxedProcess | None = None
        self._digest = b""  # of the file, once it was read
        self._facts: dict[str, Any] = {}
        self._facts_pending = False  # whether the process has yet to reply with them
        self._vocabulary_pending = False
        # The end of each token in `_vocabulary`; None until they have arrived.
        self._ends: array[int] | None = None
        self._vocabulary = b""
        self._start()

    @property
    def facts(self) -> dict[str, Any]:
        """What the backend reports about the file; see `sandbox.backend`. Waits until it is loaded.

        Raises:
            GlmtuiError: the file is not of this kind, or needs too much time or memory; the error
                comes from `make_error`.
        """
        with self._lock:
            if not self._facts:
                self._wait_until_loaded()
            return self._facts

    def wait(self) -> None:
        """Waits until the file is loaded. Raises like `facts`."""
        with self._lock:
            self._wait_until_loaded()

    def encode_each(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, encoded separately.

        Raises:
            EngineError: the tokenizer needs too much time or memory for them, or fails.
        """
        encoded = [text.encode("utf-8", "replace") for text in texts]  # of lone surrogates
        request = {"op": "encode", "sizes": [len(text) for text in encoded]}
        reply, content = self._request(request, b"".join(encoded), sum(map(len, texts)))
        ids = array("I", content).tolist()
        split, start = [], 0
        for count in reply["counts"]:
            split.append(ids[start : start + count])
            start += count
        return split

    def encode_prompt(
        self, text: str, special: Sequence[tuple[int, int, int]], *, has_typed: bool
    ) -> list[int]:
        """As `HFTokenizer.encode_prompt`. Raises like `encode_each`."""
        request = {"op": "prompt", "special": special, "has_typed": has_typed}
        payload = text.encode("utf-8", "replace")  # keeps the number of characters
        return array("I", self._request(request, payload, len(text))[1]).tolist()

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids. Raises like `encode_each`."""
        valid = array("I", [i for i in ids if 0 <= i < 1 << 32])
        return self._request({"op": "decode"}, valid.tobytes(), len(valid))[1].decode()

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token; empty for an unknown id. Raises like `encode_each`."""
        if self._ends is None:
            self._wait_until_ready()
        ends = self._ends or array("I")
        if not 0 <= token_id < len(ends):
            return b""
        return self._vocabulary[ends[token_id - 1] if token_id else 0 : ends[token_id]]

    def piece_ids(self, pieces: Sequence[str]) -> list[int]:
        """The id of each piece of a SentencePiece file. Raises like `encode_each`."""
        ids: list[int] = self._request({"op": "piece_ids", "pieces": list(pieces)})[0]["ids"]
        return ids

    def serialize(self) -> bytes:
        """A SentencePiece file as the library writes it. Raises like `encode_each`."""
        return self._request({"op": "serialize"})[1]

    # ---- the process

    def _start(self) -> SandboxedProcess:
        """Starts a process and sends the first requests; their replies are pending."""
        content = self._read()
        digest = hashlib.sha256(content).digest()
        if self._digest not in (b"", digest):
            raise self._make_error(_("it has changed since it was loaded"))
        self._digest = digest
        nbytes = len(content) + self._nbytes
        limits = {"nbytes": nbytes, "seconds": MIN_SECONDS + nbytes / MIN_LOAD_RATE}
        process = self._process = SandboxedProcess("tokenizer_process", **ENVIRONMENT)
        self._facts_pending = True
        self._vocabulary_pending = self._ends is None
        with suppress(ProcessEnded):  # reported when the replies are awaited
            process.send({**self._load_request, **limits}, content)
            if self._vocabulary_pending:  # computed while the weights are read
                process.send({"op": "vocabulary", **limits})
        return process

    def _wait_until_loaded(self) -> SandboxedProcess:
        """The process, after it has loaded the file. Raises the error of `make_error`."""
        process = self._process or self._start()
        if self._facts_pending:
            self._facts_pending = False
            try:
                reply, _content = process.receive()
            except ProcessEnded:
                reply = {"error": _(LIMIT_EXCEEDED)}
            if "error" in reply:
                process.kill()
                self._process, self._vocabulary_pending = None, False
                raise self._make_error(reply["error"])
            self._facts = reply
        return process

    def _wait_until_ready(self) -> SandboxedProcess:
        """The process, with no reply pending."""
        with self._lock:
            process = self._wait_until_loaded()
            if self._ends is None:
                if not self._vocabulary_pending:  # it failed before
                    self._send(process, {"op": "vocabulary"}, b"", 0)
                self._vocabulary_pending = False
                reply, content = self._receive(process)
                ends = array("I", content[: 4 * reply["tokens"]])
                self._vocabulary = content[4 * len(ends) :]
                self._ends = ends
            return process

    def _request(
        self, request: dict[str, Any], payload: bytes = b"", length: int = 0
    ) -> tuple[dict[str, Any], bytes]:
        """The reply. `length` is the amount of work, in characters or tokens."""
        with self._lock:
            process = self._wait_until_ready()
            self._send(process, request, payload, length)
            return self._receive(process)

    def _send(
        self, process: SandboxedProcess, request: dict[str, Any], payload: bytes, length: int
    ) -> None:
        try:
            process.send({**request, "seconds": MIN_SECONDS + length / MIN_RATE}, payload)
        except ProcessEnded:
            self._raise_ended()

    def _receive(self, process: SandboxedProcess) -> tuple[dict[str, Any], bytes]:
        try:
            reply, content = process.receive()
        except ProcessEnded:
            self._raise_ended()
        if "error" in reply:
            raise self._failure(reply["error"])
        return reply, content

    def _raise_ended(self) -> NoReturn:
        self._process, self._vocabulary_pending = None, False  # the next request restarts it
        raise self._failure(_(LIMIT_EXCEEDED))

    def _failure(self, error: str) -> EngineError:
        return EngineError(
            _("The model's tokenizer failed on this text: {error}").format(error=error), _(HINT)
        )
