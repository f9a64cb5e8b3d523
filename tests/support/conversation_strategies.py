"""Conversations of any content, drawn by Hypothesis."""

from __future__ import annotations

from datetime import timezone

from hypothesis import strategies as st

from glmtui.chat import Conversation, GenerationStats, Message, SamplingParams

# Pieces that TOML, JSON or our own reading could trip over.
TRICKY = (
    *("\r\n", "\r", "\n", "\t", "'", "'''", '"', '"""', "\\", "\\u0041", "\x00", "\x1b[0m"),
    *("\x7f", "\x85", "\x9b", "\u2028", "\ufeff", "你好", "\U0001f469\u200d\U0001f4bb"),
    *("[[messages]]", "\n[[messages]]\n", '\nrole = "user"'),
)


texts = st.lists(
    st.one_of(
        st.text(max_size=12),
        st.sampled_from(TRICKY),
    ),
    max_size=8,
).map("".join)


finite = st.floats(0, 1e9, allow_nan=False)


params = st.builds(
    SamplingParams,
    temperature=st.none() | finite,
    top_k=st.none() | st.integers(0, 2**40),
    do_sample=st.none() | st.booleans(),
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
)


stats = st.builds(
    GenerationStats,
    generated_tokens=st.integers(0, 9999),
    decode_seconds=finite,
    peak_memory=st.none() | st.integers(0, 2**40),
)


messages = st.builds(
    Message,
    role=st.sampled_from(["user", "assistant", "system", "observation"]),
    content=texts,
    created=st.none() | st.datetimes(timezones=st.just(timezone.utc)),
    model=texts,
    finish_reason=st.sampled_from([None, "stop", "length", "cancelled", "error"]),
    stats=st.none() | stats,
    error=texts,
)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Conversations as edits make them, branches and deletions included."""
    talk = Conversation.new(model=draw(texts), system=draw(st.none() | texts), params=draw(params))
    for message in draw(st.lists(messages, max_size=6)):
        if talk.messages:
            some = draw(st.sampled_from(talk.messages)).id
            step = draw(st.sampled_from(["on", "on", "on", "rewind", "switch", "delete"]))
            if step != "on":
                talk = getattr(talk, step)(some)
        talk = talk.add(message)
    if talk.messages and draw(st.booleans()):
        talk = talk.rewind(draw(st.sampled_from(talk.messages)).id)
    return talk
