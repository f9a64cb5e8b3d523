"""A server's reply as text that comes in pieces: waited for, counted, timed.

Knows the reading thread and the clock. A thread reads the call and hands over what comes; whoever
iterates only waits for it, so that a server that says nothing can be left at any moment.
"""

from __future__ import annotations

import io
import queue
import threading
import time
from collections.abc import Callable, Iterator

from glmtui.chat import FinishReason, GenerationStats
from glmtui.engine.api import PrefillProgress, Reply
from glmtui.engine.remote.call import ServerCall
from glmtui.engine.remote.chat_completions import Chunk
from glmtui.engine.remote.refusals import Refused
from glmtui.engine.remote.reply_text import Thinking
from glmtui.errors import ServerError
from glmtui.language import _

POLL_SECONDS = 0.02
# How long after the word that a reply has ended more of it, or its token counts, may come. Some
# servers say that word with every piece, and then think for a while.
LINGER_SECONDS = 10.0
DOUBTFUL_LINGER_SECONDS = 60.0
MAX_REPLY_CHARS = 16 << 20
MAX_WAITING = 1000  # pieces that were read and not asked for yet; then the server has to wait


class ServerReply:
    """An `api.ReplyStream` whose text comes from a server. The first step sends the request.

    Iterating raises ServerError; `result` then holds what came before.
    """

    def __init__(
        self,
        call: ServerCall,
        cancelled: Callable[[], bool],
        on_prefill: Callable[[PrefillProgress], None],
    ) -> None:
        self._call = call
        self._cancelled = cancelled
        self._on_prefill = on_prefill
        self._inbox: queue.Queue[tuple[float, Chunk] | BaseException | None]
        self._inbox = queue.Queue(MAX_WAITING)
        self._closed = threading.Event()
        self._tally = _Tally()
        self._failed = False
        self._steps = self._pieces()

    def __iter__(self) -> Iterator[str]:
        return self._steps

    @property
    def result(self) -> Reply:
        """The reply so far; "cancelled" until it has another reason to end.

        Tokens are counted by the server. Where it does not, and while the reply is written,
        `generated_tokens` is the number of pieces, which is right for servers that send every
        token at once, and `prompt_tokens` is 0. Seconds are by the server's clock where it tells
        them; else by ours, and `prefill_seconds`, which nobody can see from here, is 0.
        """
        reason: FinishReason = "error" if self._failed else self._tally.finish or "cancelled"
        return Reply(self._tally.text, (), reason, self._tally.stats(), self._call.dropped)

    def close(self) -> None:
        """Hangs up; the server sees that and stops. From any thread, any number of times."""
        self._closed.set()
        self._call.abort()

    def _pieces(self) -> Iterator[str]:
        if self._closed.is_set():
            return
        self._tally.start()
        threading.Thread(target=self._read, name="server-reply", daemon=True).start()
        try:
            while not self._closed.is_set() and not self._cancelled():
                try:
                    item = self._inbox.get(timeout=POLL_SECONDS)
                except queue.Empty:
                    if self._tally.overdue:
                        break
                    continue
                if item is None or (self._tally.ended and _is_trouble(item)):
                    break  # a line that breaks after a complete reply does not make it less so
                if isinstance(item, BaseException):
                    raise item
                when, chunk = item
                if chunk.progress:
                    self._on_prefill(chunk.progress)
                if text := self._tally.add(when, chunk):
                    yield text
            else:
                if text := self._tally.end():
                    yield text
                return  # cancelled: what there is is the reply
            tally, empty = self._tally, not self._tally.text.strip()
            problem = self._call.problem(tally.finish, tally.finish_word, empty=empty)
            if problem is not None:
                raise problem
            if text := self._tally.end():
                yield text
        except Exception:
            self._failed = True
            raise
        finally:
            self.close()

    def _read(self) -> None:
        try:
            for chunk in self._call.chunks():
                self._put((time.monotonic(), chunk))
        except BaseException as error:  # not caught but carried: raised again where it is awaited
            self._put(error)
        else:
            self._put(None)

    def _put(self, item: tuple[float, Chunk] | BaseException | None) -> None:
        while not self._closed.is_set():
            try:
                return self._inbox.put(item, timeout=0.1)
            except queue.Full:
                continue
        return None


def _is_trouble(item: object) -> bool:
    """Whether the line is at fault, rather than that the server says what went wrong."""
    return isinstance(item, BaseException) and not isinstance(item, Refused)


class _Tally:
    """What has come of a reply: its text, its counts, its times."""

    def __init__(self) -> None:
        self.finish: FinishReason | None = None
        self.finish_word = ""
        self._reopened = False  # text came after a word that the reply had ended
        self._doubtful = False  # such words mean little here
        self._said = io.StringIO(newline="")
        self._pieces = self._chars = 0
        self._answered = False  # more than thoughts came
        self._thinking = Thinking()
        self._told: dict[str, int | float] = {}
        self._asked = self._first = self._last = self._heard = 0.0

    def start(self) -> None:
        self._asked = self._heard = time.monotonic()

    def add(self, when: float, chunk: Chunk) -> str:
        """Takes in a chunk that came at `when`; the text it adds."""
        self._heard = when
        said = bool(chunk.text or chunk.reasoning)
        if self.finish and said:
            self._reopened = self._doubtful = True
        if chunk.finish:
            self.finish, self.finish_word = chunk.finish, chunk.finish_word
            self._reopened = False
            self._doubtful = self._doubtful or (said and not self._pieces)
        for name in _COUNTS:
            value = getattr(chunk, name)
            if value is not None:
                self._told[name] = value
        text = self._thinking.join(chunk)
        self._answered = self._answered or bool(chunk.text)
        if text:
            self._first = self._first or when
            self._last = when
            self._keep(text)
        return text

    def end(self) -> str:
        """What is missing at the end of a reply that is complete; kept, too."""
        text = self._thinking.end() if self.finish == "stop" else ""
        if text:
            self._keep(text)
        return text

    @property
    def ended(self) -> bool:
        """Whether the last that came is that the reply has ended."""
        return self.finish is not None and not self._reopened

    @property
    def overdue(self) -> bool:
        """Whether nothing more can be expected, though the server still holds the line."""
        doubtful = self._doubtful or not self._answered
        patience = DOUBTFUL_LINGER_SECONDS if doubtful else LINGER_SECONDS
        return self.ended and time.monotonic() - self._heard > patience

    @property
    def text(self) -> str:
        return self._said.getvalue()

    def stats(self) -> GenerationStats:
        told = self._told
        return GenerationStats(
            prompt_tokens=int(told.get("prompt_tokens", 0)),
            reused_tokens=int(told.get("reused_tokens", 0)),
            generated_tokens=int(told.get("generated_tokens", self._pieces)),
            prefill_seconds=told.get("prefill_seconds", 0.0),
            decode_seconds=told.get("decode_seconds", self._last - self._first),
            first_token_seconds=self._first - self._asked if self._first else 0.0,
        )

    def _keep(self, text: str) -> None:
        self._said.write(text)
        self._pieces += 1
        self._chars += len(text)
        if self._chars > MAX_REPLY_CHARS:
            raise ServerError(
                _("The reply does not end: {count} million characters so far.").format(
                    count=MAX_REPLY_CHARS >> 20
                ),
                _("Set max_new_tokens."),
            )


_COUNTS = (
    "prompt_tokens",
    "reused_tokens",
    "generated_tokens",
    "prefill_seconds",
    "decode_seconds",
)
