"""The session's state in words: what the status bar, the empty page and the notices say.

Pure functions of a `Session`; nothing here is a widget.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from glmtui.chat import Conversation
from glmtui.engine.model_info import LoadedInfo
from glmtui.errors import GlmtuiError, StoreError
from glmtui.language import _, ngettext
from glmtui.sanitize import sanitize_line
from glmtui.ui.panels.device_memory import Memory, held, with_held
from glmtui.ui.panels.status_bar import Facts, Mood
from glmtui.ui.session.session import Session
from glmtui.ui.widgets.meters import gigabytes, tokens

How: TypeAlias = Callable[[str], str]
"""The key, or else the command, for an action."""


def state(session: Session, now: float) -> tuple[str, Mood]:
    """What is going on, in a few words.

    Args:
        now: by the session's clock.
    """
    run = session.reply
    if run is not None and run.stopping:
        return _("stopping"), "busy"
    if run is not None and run.count:
        rate = run.tokens_per_second(now)
        return _("writing") if rate is None else _("{rate} tok/s").format(rate=_rate(rate)), "good"
    if run is not None and run.prefill is not None:
        done, total = run.prefill.done, run.prefill.total
        return _("prefill {done:,}/{total:,}").format(done=done, total=total), "busy"
    if session.loading is not None:
        asked = _(", question waits") if run is not None else ""
        return _("loading {percent:.0f} %").format(percent=session.loading[1] * 100) + asked, "busy"
    if run is not None:
        if session.model is None:
            return _("question waits for a model"), "bad"
        return _("starting"), "busy"
    if session.reply_error is not None:
        return _("failed"), "bad"
    if session.model is None:
        if session.load_error:
            return _("load failed"), "bad"
        return _("no model"), "calm"
    last = next(session.conversation.backwards(), None)
    stats = last.stats if last else None
    word = _("stopped") if session.was_stopped else _("ready")
    rate = stats.decode_rate if stats and session.has_replied else None
    if rate is not None:
        word = _("{state}, {rate} tok/s").format(state=word, rate=_rate(rate))
    return word, "calm"


def context_used(session: Session) -> int | None:
    """Tokens in the model's context; None before the first reply.

    While a reply is written this adds what is known of it to the end of the last one; with its
    end the engine's own count takes over.
    """
    counted = (m.stats for m in session.conversation.backwards() if m.stats is not None)
    last = next(counted, None)
    used = None if last is None else last.prompt_tokens + last.generated_tokens
    run = session.reply
    if run is not None and run.started:
        used = (used or 0) + (run.prefill.total if run.prefill else 0) + run.count
    return used


def context_limit(session: Session) -> int | None:
    """Tokens there is room for: the model's context, or what max_length leaves of it."""
    if session.model is None:
        return None
    asked = session.conversation.params.over(session.model.defaults).max_length
    known = [n for n in (session.model.context_length, asked) if n is not None]
    return min(known, default=None)


def devices(session: Session, memories: tuple[Memory, ...]) -> tuple[Memory, ...]:
    """Memory as measured, and what of it the model has and will want."""
    cached = session.cached_tokens
    if session.reply is not None and session.reply.started:
        cached = max(cached, context_used(session) or 0)
    return with_held(memories, held(session.model, cached, context_limit(session)))


def facts(session: Session, memories: tuple[Memory, ...], now: float, *, unsaved: bool) -> Facts:
    """All that the status bar shows."""
    text, mood = state(session, now)
    if session.dropped_turns:
        text += _(", {count:,} oldest left out").format(count=session.dropped_turns)
    if unsaved:
        text, mood = _("not saved, {state}").format(state=text), "bad"
    limit = context_limit(session)
    used = context_used(session)
    return Facts(
        state=text,
        mood=mood,
        model=session.model_display_name,
        used=0 if used is None and limit is not None else used,
        limit=limit,
        memories=devices(session, memories),
    )


def welcome(session: Session, how: How) -> str:
    """What an empty page says."""
    ways = {
        "help": _("help"),
        "settings": _("settings"),
        "model": _("models"),
        "open": _("saved chats"),
    }
    hints = "   ".join(f"{how(action)} {words}" for action, words in ways.items())
    return f"{model_line(session, how)}\n\n{hints}"


def model_line(session: Session, how: How) -> str:
    """The model and how it is held: "smollm2 · int4 g32 · cpu · 8,192 tokens"."""
    if session.model is not None:
        return sanitize_line(loaded(session.model))
    if session.loading is not None:
        text = _("{model} is loading; you can type already")
        return sanitize_line(text.format(model=session.loading[0]))
    return _("No model yet: {key} picks one").format(key=how("model"))


def loaded(model: LoadedInfo) -> str:
    """A model in memory, on one line."""
    parts = [model.name, model.quant or model.dtype, model.kernel, model.device]
    if model.context_length is not None:
        parts.append(_("{count} tokens").format(count=tokens(model.context_length)))
    if model.weight_bytes is not None:
        parts.append(f"{gigabytes(model.weight_bytes)} GB")
    if model.saved_bytes:
        text = _("{size:.0f} MB of image tokens left out")
        parts.append(text.format(size=model.saved_bytes / 1e6))
    if model.backend == "compatibility":
        why = f" ({model.compatibility_reason})" if model.compatibility_reason else ""
        parts.append(_("compatibility") + why)
    return " · ".join(part for part in parts if part)


def told(error: GlmtuiError | None) -> str:
    """An error with its hint; "" for none."""
    return "" if error is None else str(error)


def title(conversation: Conversation) -> str:
    """The conversation's title, or what stands for one."""
    return sanitize_line(conversation.title) or _("New conversation")


def deleted(count: int) -> str:
    """That so many messages were taken out, and how they come back."""
    text = ngettext("Deleted {count} message", "Deleted {count} messages", count)
    return _("{said}; /undo brings it back.").format(said=text.format(count=count))


def pressing(session: Session, memories: tuple[Memory, ...], how: How) -> str:
    """What is said when the conversation will soon have no room to grow; "" while it has."""
    for memory in devices(session, memories):
        if memory.is_pressing:
            text = _("{name} is nearly full: the whole context needs {size} GB more than is free.")
            said = text.format(name=memory.name, size=gigabytes(memory.lacking))
            more = _("{key} says more.").format(key=how("stats"))
            return f"{said}\n{ways_out()} {more}"
    return ""


def ways_out() -> str:
    """What gives memory back."""
    return _(
        "/keep N gives the model the last N turns only; /quant int8 or /quant int4 makes the "
        "weights smaller; /clear gives the KV cache back."
    )


def _rate(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"


def unsaved(error: StoreError | None) -> str:
    """What is said while a conversation cannot be saved; "" when it can."""
    if error is None:
        return ""
    kept = _("It is kept in memory and tried again; /export puts it elsewhere.")
    return f"{error}\n{kept}"


def copied(why: StoreError) -> str:
    """What is said when a conversation that others have goes on in a copy."""
    return f"{why.message}\n" + _("You go on in a copy of it, where all that you say is saved.")


def unlocked(reason: str) -> str:
    """What is said once where the disk has no locks, as some network file systems."""
    return _(
        "The disk of the conversations has no locks ({reason}). Do not open one of them in two "
        "glmtui at once: what the other saved is never overwritten, but both cannot go on in it."
    ).format(reason=reason)
