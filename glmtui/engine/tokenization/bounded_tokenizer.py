"""BoundedTokenizer: the tokenizer file of a model's folder, used without loading it here.

A process of its own has the file and the library that reads it (see `tokenizer_process`), with
limits of time and memory. The bytes of each token are fetched once and kept here, so that showing
a reply as it is written costs no round trip.
"""

from __future__ import annotations

import hashlib
import threading
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal, NoReturn

from glmtui.engine.tokenization.sandbox.bounded_process import BoundedProcess, ProcessEnded
from glmtui.errors import EngineError, GlmtuiError
from glmtui.language import N_, _

Kind = Literal["tokenizers", "sentencepiece", "tiktoken", "transformers", "piece_model"]

# seconds of a core: for any question at all, and for what it is about; the slowest machine does
# ten times as much
LEAST_SECONDS, LEAST_RATE = 10.0, 20_000  # characters or tokens a second
LEAST_LOAD_RATE = 1 << 20  # bytes of the file a second
# threads of its own would make an aborted allocation, or the end of its time, another's fault
ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "HOME": "/"}
ANOTHER = N_("Take the tokenizer file that the model was published with, or another model.")
NEVER = N_("it takes too much time or memory")


class BoundedTokenizer:
    """A tokenizer file in a process of its own, which is loaded while others go on.

    Args:
        kind: the library that reads it.
        read: reads the file; called again if the process has to be replaced.
        refused: the error when it cannot be loaded, made of the cause.
        nbytes: of what is loaded, where that is not what `read` returns.
        options: what else the kind needs to know; see `tokenizer_process`.
    """

    def __init__(
        self,
        kind: Kind,
        read: Callable[[], bytes],
        refused: Callable[[str], GlmtuiError],
        nbytes: int = 0,
        **options: Any,
    ) -> None:
        self._ask_to_load = {"kind": kind, **options}
        self._nbytes = nbytes
        self._read = read
        self._refused = refused
        self._turn = threading.RLock()
        self._process: BoundedProcess | None = None
        self._vocabulary_due = False
        self._ends: array[int] | None = None
        self._spelled = b""
        self._digest = b""
        self._facts_due = False
        self._facts: dict[str, Any] = {}
        self._start()

    @property
    def facts(self) -> dict[str, Any]:
        """What the process tells of the file; waits for it to be loaded.

        Raises:
            GlmtuiError: it is none of that kind, or takes too much time or memory to load; as
                `refused` has it.
        """
        with self._turn:
            if not self._facts:
                self._loaded()
            return self._facts

    def wait(self) -> None:
        """Returns once the file is loaded. Raises like `facts`."""
        with self._turn:
            self._loaded()

    def encode_each(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text by itself.

        Raises:
            EngineError: the tokenizer takes too much time or memory for them, or gives up.
        """
        # no UTF-8 can hold lone surrogates
        spelled = [text.encode("utf-8", "replace") for text in texts]
        question = {"do": "encode", "sizes": [len(text) for text in spelled]}
        answer, content = self._ask(question, b"".join(spelled), sum(map(len, texts)))
        ids = array("I", content).tolist()
        found, at = [], 0
        for count in answer["counts"]:
            found.append(ids[at : at + count])
            at += count
        return found

    def encode_prompt(
        self, text: str, special: Sequence[tuple[int, int, int]], *, typed: bool
    ) -> list[int]:
        """As `TokenizerJson.encode_prompt`. Raises like `encode_each`."""
        question = {"do": "prompt", "special": special, "typed": typed}
        payload = text.encode("utf-8", "replace")  # as many characters as before
        return array("I", self._ask(question, payload, len(text))[1]).tolist()

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids. Raises like `encode_each`."""
        known = array("I", [i for i in ids if 0 <= i < 1 << 32])
        return self._ask({"do": "decode"}, known.tobytes(), len(known))[1].decode()

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token; empty for an id that is none. Raises like `encode_each`."""
        if self._ends is None:
            self._settle()
        ends = self._ends or array("I")
        if not 0 <= token_id < len(ends):
            return b""
        return self._spelled[ends[token_id - 1] if token_id else 0 : ends[token_id]]

    def ids_of(self, pieces: Sequence[str]) -> list[int]:
        """The id of each piece of a SentencePiece file. Raises like `encode_each`."""
        ids: list[int] = self._ask({"do": "ids", "pieces": list(pieces)})[0]["ids"]
        return ids

    def serialized(self) -> bytes:
        """A SentencePiece file as the library writes it. Raises like `encode_each`."""
        return self._ask({"do": "serialized"})[1]

    # ---- the process

    def _start(self) -> BoundedProcess:
        """A process that was told to load the file, and owes the answers."""
        content = self._read()
        digest = hashlib.sha256(content).digest()
        if self._digest not in (b"", digest):
            raise self._refused(_("it has changed since it was loaded"))
        self._digest = digest
        nbytes = len(content) + self._nbytes
        limits = {"nbytes": nbytes, "seconds": LEAST_SECONDS + nbytes / LEAST_LOAD_RATE}
        process = self._process = BoundedProcess("tokenizer_process", **ENVIRONMENT)
        self._facts_due = True
        self._vocabulary_due = self._ends is None
        with suppress(ProcessEnded):  # whoever waits for the answers is told
            process.send({**self._ask_to_load, **limits}, content)
            if self._vocabulary_due:  # it is worked on while the weights are read
                process.send({"do": "vocabulary", **limits})
        return process

    def _loaded(self) -> BoundedProcess:
        """The process, once it has loaded the file. Raises what `refused` makes."""
        process = self._process or self._start()
        if self._facts_due:
            self._facts_due = False
            try:
                answer, _content = process.receive()
            except ProcessEnded:
                answer = {"error": _(NEVER)}
            if "error" in answer:
                process.end()
                self._process, self._vocabulary_due = None, False
                raise self._refused(answer["error"])
            self._facts = answer
        return process

    def _settle(self) -> BoundedProcess:
        """The process, ready for a question: it owes no answer any more."""
        with self._turn:
            process = self._loaded()
            if self._ends is None:
                if not self._vocabulary_due:  # it failed before
                    self._send(process, {"do": "vocabulary"}, b"", 0)
                self._vocabulary_due = False
                answer, content = self._receive(process)
                ends = array("I", content[: 4 * answer["tokens"]])
                self._spelled = content[4 * len(ends) :]
                self._ends = ends
            return process

    def _ask(
        self, question: dict[str, Any], payload: bytes = b"", length: int = 0
    ) -> tuple[dict[str, Any], bytes]:
        """The answer. `length` is of what is asked about, in characters or tokens."""
        with self._turn:
            process = self._settle()
            self._send(process, question, payload, length)
            return self._receive(process)

    def _send(
        self, process: BoundedProcess, question: dict[str, Any], payload: bytes, length: int
    ) -> None:
        try:
            process.send({**question, "seconds": LEAST_SECONDS + length / LEAST_RATE}, payload)
        except ProcessEnded:
            self._give_up(_(NEVER))

    def _receive(self, process: BoundedProcess) -> tuple[dict[str, Any], bytes]:
        try:
            answer, content = process.receive()
        except ProcessEnded:
            self._give_up(_(NEVER))
        if "error" in answer:
            raise self._failed(answer["error"])
        return answer, content

    def _give_up(self, error: str) -> NoReturn:
        self._process, self._vocabulary_due = None, False  # the next question gets another
        raise self._failed(error)

    def _failed(self, error: str) -> EngineError:
        return EngineError(
            _("The model's tokenizer gave up on this text: {error}").format(error=error),
            _(ANOTHER),
        )
