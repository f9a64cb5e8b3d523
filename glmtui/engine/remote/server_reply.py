"""A server's reply as a stream of text, with its counts and times.

A background thread reads from the server, and the iterating thread waits for its queue, so that it
can leave a silent server at any moment.
"""

from __future__ import annotations

import io
import queue
import threading
import time
from collections.abc import Callable, Iterator

from glmtui.chat import FinishReason, GenerationStats
from glmtui.engine.api import PrefillProgress, Reply
from glmtui.engine.remote.chat_completions import Chunk
from glmtui.engine.remote.server_call import ServerCall
from glmtui.engine.remote.server_errors import RequestRefused
from glmtui.engine.remote.think_tags import ThinkTagWriter
from glmtui.errors import ServerError
from glmtui.language import _

POLL_SECONDS = 0.02
# How long to wait for more text, or for token counts, after a finish reason. Some servers send a
# finish reason with every chunk and then pause, so that it is doubtful.
LINGER_SECONDS = 10.0
DOUBTFUL_LINGER_SECONDS = 60.0
MAX_REPLY_CHARS = 16 << 20
MAX_QUEUED_CHUNKS = 1000  # then the reading thread waits, and so does the server
_COUNTS = (
    "prompt_tokens",
    "reused_tokens",
    "generated_tokens",
    "prefill_seconds",
    "decode_seconds",
)


class ServerReply:
    """An `api.ReplyStream` from a server. The first step of the iteration sends the request.

    Iterating raises ServerError; `result` then has the text that came before.
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
        self._queue: queue.Queue[tuple[float, Chunk] | BaseException | None]
        self._queue = queue.Queue(MAX_QUEUED_CHUNKS)
        self._closed = threading.Event()
        self._progress = _ReplyProgress()
        self._failed = False
        self._steps = self._stream()

    def __iter__(self) -> Iterator[str]:
        return self._steps

    @property
    def result(self) -> Reply:
        """The reply so far; its finish reason is "cancelled" until there is another one.

        Tokens are counted by the server. If it does not count them, and until it does,
        `generated_tokens` is the number of chunks, which is right for servers that send each token
        as a chunk, and `prompt_tokens` is 0. Times are the server's if it sends them; else they are
        measured here, and `prefill_seconds`, which cannot be, is 0.
        """
        progress = self._progress
        reason: FinishReason = "error" if self._failed else progress.finish or "cancelled"
        return Reply(progress.text, (), reason, progress.stats(), self._call.dropped_messages)

    def close(self) -> None:
        """Close the connection, which makes the server stop. Thread-safe and idempotent."""
        self._closed.set()
        self._call.abort()

    def _stream(self) -> Iterator[str]:
        if self._closed.is_set():
            return
        progress = self._progress
        progress.start()
        threading.Thread(target=self._read, name="server-reply", daemon=True).start()
        try:
            while not self._closed.is_set() and not self._cancelled():
                try:
                    item = self._queue.get(timeout=POLL_SECONDS)
                except queue.Empty:
                    if progress.overdue:
                        break
                    continue
                if item is None or (progress.finished and _is_connection_error(item)):
                    break  # a connection that breaks after a complete reply does no harm
                if isinstance(item, BaseException):
                    raise item
                when, chunk = item
                if chunk.progress:
                    self._on_prefill(chunk.progress)
                if text := progress.add(when, chunk):
                    yield text
            else:  # cancelled
                if text := progress.end():
                    yield text
                return
            error = self._call.reply_error(
                progress.finish, progress.finish_word, empty=not progress.text.strip()
            )
            if error is not None:
                raise error
            if text := progress.end():
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
        except BaseException as error:  # raised again in the iterating thread
            self._put(error)
        else:
            self._put(None)

    def _put(self, item: tuple[float, Chunk] | BaseException | None) -> None:
        while not self._closed.is_set():
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
        return None


def _is_connection_error(item: object) -> bool:
    """Whether the connection failed, rather than that the server reports an error."""
    return isinstance(item, BaseException) and not isinstance(item, RequestRefused)


class _ReplyProgress:
    """What has arrived of a reply: text, counts and times.

    Attributes:
        finish: the last finish reason; None while there is none.
        finish_word: the server's name for it.
    """

    def __init__(self) -> None:
        self.finish: FinishReason | None = None
        self.finish_word = ""
        self._reopened = False  # text came after a finish reason
        self._doubtful = False  # this server's finish reasons mean little
        self._text = io.StringIO(newline="")
        self._pieces = self._chars = 0
        self._has_answer = False  # more than reasoning came
        self._think_tags = ThinkTagWriter()
        self._counts: dict[str, int | float] = {}
        # time.monotonic() of the request, the first and last text, and the last chunk
        self._started = self._first = self._last = self._last_chunk = 0.0

    def start(self) -> None:
        self._started = self._last_chunk = time.monotonic()

    def add(self, when: float, chunk: Chunk) -> str:
        """Add a chunk that arrived at `when`; return the text that it adds."""
        self._last_chunk = when
        has_text = bool(chunk.text or chunk.reasoning)
        if self.finish and has_text:
            self._reopened = self._doubtful = True
        if chunk.finish:
            self.finish, self.finish_word = chunk.finish, chunk.finish_word
            self._reopened = False
            self._doubtful = self._doubtful or (has_text and not self._pieces)
        for name in _COUNTS:
            value = getattr(chunk, name)
            if value is not None:
                self._counts[name] = value
        text = self._think_tags.feed(chunk)
        self._has_answer = self._has_answer or bool(chunk.text)
        if text:
            self._first = self._first or when
            self._last = when
            self._append(text)
        return text

    def end(self) -> str:
        """Complete the reply; return the text that this adds."""
        text = self._think_tags.flush() if self.finish == "stop" else ""
        if text:
            self._append(text)
        return text

    @property
    def finished(self) -> bool:
        """Whether a finish reason came, and no text after it."""
        return self.finish is not None and not self._reopened

    @property
    def overdue(self) -> bool:
        """Whether to stop waiting, though the server keeps the connection open."""
        doubtful = self._doubtful or not self._has_answer
        linger = DOUBTFUL_LINGER_SECONDS if doubtful else LINGER_SECONDS
        return self.finished and time.monotonic() - self._last_chunk > linger

    @property
    def text(self) -> str:
        return self._text.getvalue()

    def stats(self) -> GenerationStats:
        counts = self._counts
        return GenerationStats(
            prompt_tokens=int(counts.get("prompt_tokens", 0)),
            reused_tokens=int(counts.get("reused_tokens", 0)),
            generated_tokens=int(counts.get("generated_tokens", self._pieces)),
            prefill_seconds=counts.get("prefill_seconds", 0.0),
            decode_seconds=counts.get("decode_seconds", self._last - self._first),
            first_token_seconds=self._first - self._started if self._first else 0.0,
        )

    def _append(self, text: str) -> None:
        self._text.write(text)
        self._pieces += 1
        self._chars += len(text)
        if self._chars > MAX_REPLY_CHARS:
            raise ServerError(
                _("The reply exceeds {count} million characters.").format(
                    count=MAX_REPLY_CHARS >> 20
                ),
                _("Set max_new_tokens."),
            )
