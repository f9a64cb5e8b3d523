"""The session's state in words: what the status bar, the empty page and the notices say.

Pure functions of a `Session`; nothing here is a widget.
"""

from __future__ import annotations

from glmtui.chat import Conversation
from glmtui.engine.api import LoadedInfo
from glmtui.errors import ConversationChanged, ConversationInUse, GlmtuiError, StoreError
from glmtui.sanitize import one_line
from glmtui.ui.session import Session
from glmtui.ui.status import Facts, Memory, Mood, gigabytes, tokens


def state(session: Session, now: float) -> tuple[str, Mood]:
    """What is going on, in a few words.

    Args:
        now: by the session's clock.
    """
    run = session.run
    if run is not None and run.stopping:
        return "stopping", "busy"
    if run is not None and run.count:
        rate = run.rate(now)
        return "writing" if rate is None else f"{_rate(rate)} tok/s", "good"
    if run is not None and run.prefill is not None:
        done, total = run.prefill.done, run.prefill.total
        return f"prefill {done:,}/{total:,}", "busy"
    if session.loading is not None:
        asked = ", question waits" if run is not None else ""
        return f"loading {session.loading[1] * 100:.0f} %{asked}", "busy"
    if run is not None:
        return ("starting", "busy") if session.model else ("question waits for a model", "bad")
    if session.reply_error is not None:
        return "failed", "bad"
    if session.model is None:
        return ("load failed", "bad") if session.load_error else ("no model", "calm")
    last = session.conversation.path[-1:]
    stats = last[0].stats if last else None
    word = "stopped" if session.stopped else "ready"
    rate = stats.decode_rate if stats and session.answered else None
    return (word if rate is None else f"{word}, {_rate(rate)} tok/s"), "calm"


def context_used(session: Session) -> int | None:
    """Tokens in the model's context; None before the first reply.

    While a reply is written this adds what is known of it to the end of the last one; with its
    end the engine's own count takes over.
    """
    used = None
    for message in session.conversation.path:
        if message.stats is not None:
            used = message.stats.prompt_tokens + message.stats.generated_tokens
    run = session.run
    if run is not None and run.working:
        used = (used or 0) + (run.prefill.total if run.prefill else 0) + run.count
    return used


def context_limit(session: Session) -> int | None:
    """Tokens there is room for: the model's context, or what max_length leaves of it."""
    if session.model is None:
        return None
    asked = session.conversation.params.over(session.model.defaults).max_length
    known = [n for n in (session.model.context_length, asked) if n is not None]
    return min(known, default=None)


def facts(session: Session, memories: tuple[Memory, ...], now: float, *, unsaved: bool) -> Facts:
    """All that the status bar shows."""
    text, mood = state(session, now)
    if session.dropped_turns:
        text += f", {session.dropped_turns} oldest left out"
    if unsaved:
        text, mood = f"not saved, {text}", "bad"
    limit = context_limit(session)
    used = context_used(session)
    return Facts(
        state=text,
        mood=mood,
        model=session.answering,
        used=0 if used is None and limit is not None else used,
        limit=limit,
        memories=memories,
    )


def welcome(session: Session) -> str:
    """What an empty page says."""
    return f"{model_line(session)}\n\nF1 help   F2 settings   F4 models   Ctrl+O saved chats"


def model_line(session: Session) -> str:
    """The model and how it is held: "smollm2 · int4 g32 · cpu · 8,192 tokens"."""
    if session.model is not None:
        return one_line(loaded(session.model))
    if session.loading is not None:
        return one_line(f"{session.loading[0]} is loading; you can type already")
    return "No model yet: F4 picks one"


def loaded(model: LoadedInfo) -> str:
    """A model in memory, on one line."""
    parts = [model.name, model.quant or model.dtype, model.kernel, model.device]
    if model.context_length is not None:
        parts.append(f"{tokens(model.context_length)} tokens")
    if model.weight_bytes is not None:
        parts.append(f"{gigabytes(model.weight_bytes)} GB")
    if model.saved_bytes:
        parts.append(f"{model.saved_bytes / 1e6:.0f} MB of image tokens left out")
    if model.backend == "compatibility":
        parts.append("compatibility")
    return " · ".join(part for part in parts if part)


def told(error: GlmtuiError | None) -> str:
    """An error with its hint; "" for none."""
    return "" if error is None else str(error)


def title(conversation: Conversation) -> str:
    """The conversation's title, or what stands for one."""
    return one_line(conversation.title) or "New conversation"


def _rate(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"


def unsaved(error: StoreError | None) -> str:
    """What is said while a conversation cannot be saved; "" when it can."""
    if error is None:
        return ""
    taken = isinstance(error, ConversationChanged | ConversationInUse)
    way = "/fork goes on in a copy." if taken else "/export puts it elsewhere."
    return f"{error}\nNothing is lost: it is kept and tried again. {way}"
