"""A server's reply as text that comes in pieces: waited for, counted, timed.

Knows the reading thread and the clock. A thread reads the call and hands over what comes; whoever
iterates only waits for it, so that a server that says nothing can be left at any moment.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator

from glmtui.chat import FinishReason, GenerationStats
from glmtui.engine.api import PrefillProgress, Reply
from glmtui.engine.server.call import Call
from glmtui.engine.server.chat_completions import Chunk, Thinking
from glmtui.errors import ServerError
from glmtui.language import _

POLL_SECONDS = 0.02
LINGER_SECONDS = 5.0  # how long after a complete reply its token counts may come
MAX_REPLY_CHARS = 16 << 20


class ServerReply:
    """An `api.ReplyStream` whose text comes from a server. The first step sends the request.

    Iterating raises ServerError; `result` then holds what came before.
    """

    def __init__(
        self,
        call: Call,
        cancelled: Callable[[], bool],
        on_prefill: Callable[[PrefillProgress], None],
    ) -> None:
        self._call = call
        self._cancelled = cancelled
        self._on_prefill = on_prefill
        self._inbox: queue.SimpleQueue[tuple[float, Chunk] | BaseException | None]
        self._inbox = queue.SimpleQueue()
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
        self._call.hang_up()

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
                    if self._tally.finish and self._tally.idle_seconds() > LINGER_SECONDS:
                        break
                    continue
                if item is None or (self._tally.finish and isinstance(item, BaseException)):
                    break  # what goes wrong after a complete reply does not make it less so
                if isinstance(item, BaseException):
                    raise item
                when, chunk = item
                if chunk.progress:
                    self._on_prefill(chunk.progress)
                if text := self._tally.add(when, chunk):
                    yield text
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
                self._inbox.put((time.monotonic(), chunk))
        except BaseException as error:  # not caught but carried: raised again where it is awaited
            self._inbox.put(error)
        else:
            self._inbox.put(None)


class _Tally:
    """What has come of a reply: its text, its counts, its times."""

    def __init__(self) -> None:
        self.finish: FinishReason | None = None
        self._parts: list[str] = []
        self._chars = 0
        self._thinking = Thinking()
        self._told: dict[str, int | float] = {}
        self._asked = self._first = self._last = self._heard = 0.0

    def start(self) -> None:
        self._asked = self._heard = time.monotonic()

    def add(self, when: float, chunk: Chunk) -> str:
        """Takes in a chunk that came at `when`; the text it adds."""
        self._heard = when
        self.finish = self.finish or chunk.finish
        for name in _COUNTS:
            value = getattr(chunk, name)
            if value is not None:
                self._told[name] = value
        text = self._thinking.join(chunk)
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

    def idle_seconds(self) -> float:
        return time.monotonic() - self._heard

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def stats(self) -> GenerationStats:
        told = self._told
        return GenerationStats(
            prompt_tokens=int(told.get("prompt_tokens", 0)),
            reused_tokens=int(told.get("reused_tokens", 0)),
            generated_tokens=int(told.get("generated_tokens", len(self._parts))),
            prefill_seconds=told.get("prefill_seconds", 0.0),
            decode_seconds=told.get("decode_seconds", self._last - self._first),
            first_token_seconds=self._first - self._asked if self._first else 0.0,
        )

    def _keep(self, text: str) -> None:
        self._parts.append(text)
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
