"""Text that is slow to lay out: it takes a bounded time, or is shown as plain text.

The limits are of this thread's processor time, and several times those of the program itself.
"""

from __future__ import annotations

import gc
import json
import signal
import threading
import time
from collections.abc import Callable

import pytest

from glmtui.sanitize import StreamSanitizer
from glmtui.store.conversation_format import LARGE_TOML, peek
from glmtui.ui.markdown import document, highlight
from glmtui.ui.markdown import stream as streaming
from glmtui.ui.markdown.document import render
from glmtui.ui.markdown.highlight import highlight as highlighted
from glmtui.ui.markdown.stream import MarkdownStream
from glmtui.ui.markdown.styled_text import Span, wrap
from glmtui.ui.markdown.time_limit import TimeLimitExceeded, call_with_time_limit
from glmtui.ui.session.safe_conversation import sanitized_message
from support.call_counter import count_calls
from support.transcript_app import TranscriptApp, reply

SIZE = 40_000
MARK = "\u0301"


def repeated(part: str, size: int = SIZE) -> str:
    return (part * (size // len(part) + 1))[:size]


SLOW_TEXTS = {
    "emphasis": repeated("a*"),
    "mixed emphasis": repeated("a**b*c "),
    "links": repeated("[a](b)"),
    "nested brackets": "[" * (SIZE // 2) + "]" * (SIZE // 2),
    "backticks": repeated("`a``b"),
    "list items": repeated("- a\n"),
    "items in quotes": repeated("> - 1. "),
    "columns": "|" + "a|" * 10_000 + "\n|" + "-|" * 10_000 + "\n|" + "b|" * 10_000,
    "ragged rows": "|" + "a|" * 1000 + "\n|" + "-|" * 1000 + "\n" + "x\n" * 1000,
    "fences": repeated("```py\na\n```\n"),
    "lines": repeated("a\n"),
    "accented lines": repeated(MARK + "\n"),
    "flags": "🇦" * SIZE,
    "parentheses": repeated(r"\("),
    "overlines": "$" + r"\overline{" * 18 + "a" * 1500 + "}" * 18 + "$",
    "fractions": "$$" + repeated(r"\frac{", 1900) + "$$",
    "one long line": "word " * 50_000,
    "one long word": "a" * 250_000,
    "punctuation": repeated("，", 100_000),
    "spaces": "a" + " " * 250_000 + "b",
}


@pytest.fixture(autouse=True)
def no_finalisers_of_other_tests() -> None:
    """Garbage of earlier tests goes before the time counts: its finalisers would be interrupted."""
    gc.collect()


def seconds(work: Callable[[], object]) -> float:
    """The processor time of this thread that `work` takes."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


def letters(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("name", SLOW_TEXTS)
def test_a_message(name: str) -> None:
    shown = []
    assert seconds(lambda: shown.extend(render(SLOW_TEXTS[name], 80))) < 8 * document.MAX_SECONDS
    assert shown


@pytest.mark.parametrize("name", ["links", "accented lines", "ragged rows"])
def test_a_streamed_reply(name: str) -> None:
    text, stream = SLOW_TEXTS[name], MarkdownStream(80)
    for n in range(0, len(text), 2000):
        took = seconds(lambda n=n: stream.feed(text[n : n + 2000]))  # type: ignore[misc]
        assert took < 20 * streaming.MAX_SECONDS
    stream.finish()
    if stream.plain:
        assert letters("".join(line.text for line in stream.lines)).endswith(letters(text[-2000:]))


@pytest.mark.parametrize("language", ["perl", "html", "cpp"])
@pytest.mark.parametrize("part", ["s{", "<", '"'])
def test_code(language: str, part: str) -> None:
    code = repeated(part)
    highlighted("", language)  # its lexer is imported
    spans: list[Span] = []
    took = seconds(lambda: spans.extend(highlighted(code, language)))
    assert took < 20 * highlight.MAX_SECONDS
    assert "".join(span.text for span in spans) == code


def test_a_lexer_that_loses_text_is_not_used() -> None:
    code = "\n " * 20
    assert "".join(span.text for span in highlighted(code, "console")) == code


async def test_thousands_of_accents_in_one_place_do_not_reach_the_terminal() -> None:
    app = TranscriptApp()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        before = app.bytes
        text, stream = "a" + MARK * 50_000, StreamSanitizer()
        app.transcript.begin(reply("", finish_reason=None))
        for n in range(0, len(text), 5000):
            app.transcript.append(stream.feed(text[n : n + 5000]))  # as the session does
        await pilot.pause()
        app.transcript.finish(sanitized_message(reply(text)))
        await pilot.pause()
        assert app.bytes - before < 24 * 80 * 100
        assert any("a" + MARK in row for row in app.rows) or any("á" in row for row in app.rows)


def test_wrapping_does_work_in_proportion() -> None:
    def work(part: str, size: int) -> int:
        return count_calls(lambda: wrap([Span(repeated(part, size))], 80))

    for part in ("（ ", "， ", "字      ", "a" + MARK, "🇦🇧", "，", "a"):
        assert work(part, 12_000) < 5 * work(part, 3_000), part


def test_a_list_does_not_parse_a_large_file_that_is_laid_out_otherwise() -> None:
    """One line of `messages = [...]`, of which tomli takes 57 times the memory."""
    message = '{role = "user", content = "hello"}, '
    body = message * (LARGE_TOML // len(message) + 2)
    text = f'title = "Imported"\nmodel = "m"\nmessages = [{body}]\n'
    there = []
    assert count_calls(lambda: there.append(peek(text, "toml"))) < 1000
    assert (there[0].title, there[0].model) == ("Imported", "m")
    keys = "\n".join(f"k{n} = {n}" for n in range(LARGE_TOML // 8))
    text = f'title = "Keys"\n{keys}\n[[messages]]\nrole = "user"\ncontent = "a"\n'
    assert count_calls(lambda: there.append(peek(text, "toml"))) < 1000
    text = f'title = "Last"\n\n[[messages]]\nrole = "user"\ncontent = "a"\n{keys}\n'
    assert count_calls(lambda: there.append(peek(text, "toml"))) < 1000
    assert [one.message_count for one in there[1:]] == [1, 1]
    json_text = json.dumps({"title": "J", "messages": [{"role": "user", "content": "a"}] * 50_000})
    assert peek(json_text, "json").message_count == 50_000


# ---- the limit itself


def burn(seconds: float) -> str:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        sum(range(100))
    return "done"


def test_a_limit() -> None:
    handler = signal.getsignal(signal.SIGALRM)
    assert call_with_time_limit(5, lambda: burn(0.02)) == "done"
    with pytest.raises(TimeLimitExceeded):
        call_with_time_limit(0.02, lambda: burn(60))
    with pytest.raises(ZeroDivisionError):
        call_with_time_limit(5, lambda: 1 / 0)
    assert signal.getsignal(signal.SIGALRM) == handler


def test_a_limit_within_a_limit() -> None:
    def inner() -> str:
        try:
            return call_with_time_limit(60, lambda: burn(60))
        except TimeLimitExceeded:  # the outer one's
            return burn(60)

    def inner_first() -> str:
        try:
            return call_with_time_limit(0.02, lambda: burn(60))
        except TimeLimitExceeded:
            return "plain"

    with pytest.raises(TimeLimitExceeded):
        call_with_time_limit(0.05, inner)
    assert call_with_time_limit(5, inner_first) == "plain"


def test_a_limit_is_of_work_not_of_waiting() -> None:
    assert call_with_time_limit(0.05, lambda: time.sleep(0.3)) is None


def test_a_limit_leaves_another_timer_running() -> None:
    before = signal.setitimer(signal.ITIMER_REAL, 600)
    try:
        call_with_time_limit(5, lambda: burn(0.05))
        left, interval = signal.getitimer(signal.ITIMER_REAL)
        assert 0 < left < 600
        assert interval == 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)


def test_another_thread_has_no_limit() -> None:
    done: list[str] = []
    thread = threading.Thread(
        target=lambda: done.append(call_with_time_limit(0.01, lambda: burn(0.1)))
    )
    thread.start()
    thread.join(60)
    assert done == ["done"]
