"""Texts about the session's state: for the status bar, the welcome page and the notices.

Pure functions of a `Session`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from glmtui.chat import Conversation
from glmtui.engine.model_info import LoadedInfo
from glmtui.errors import GlmtuiError, StoreError
from glmtui.language import _, ngettext
from glmtui.sanitize import sanitize_line
from glmtui.ui.panels.device_memory import DeviceMemory, model_memory, with_model_memory
from glmtui.ui.panels.status_bar import Status, StatusLevel
from glmtui.ui.session.session import Session
from glmtui.ui.widgets.meters import format_gigabytes, format_token_count

KeyLabel: TypeAlias = Callable[[str], str]
"""Returns the name of the key for an action, or its slash command if it has no key."""


def state_text(session: Session, now: float) -> tuple[str, StatusLevel]:
    """The state in a few words.

    Args:
        now: time of the session's clock.
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
        text = _("loading {percent:.0f} %").format(percent=session.loading[1] * 100)
        return text + (_(", question waiting") if run is not None else ""), "busy"
    if run is not None:
        if session.model is None:
            return _("no model, question waiting"), "error"
        return _("starting"), "busy"
    if session.reply_error is not None:
        return _("failed"), "error"
    if session.model is None:
        if session.load_error:
            return _("load failed"), "error"
        return _("no model"), "idle"
    last = next(session.conversation.reversed_path(), None)
    stats = last.stats if last else None
    text = _("stopped") if session.was_stopped else _("ready")
    rate = stats.decode_rate if stats and session.has_replied else None
    if rate is not None:
        text = _("{state}, {rate} tok/s").format(state=text, rate=_rate(rate))
    return text, "idle"


def context_used(session: Session) -> int | None:
    """Number of tokens in the model's context; None before the first reply.

    While a reply is generated, this is an estimate: the tokens at the end of the last reply, plus
    those of the prompt and the new reply. When it ends, the engine reports the exact number.
    """
    counted = (m.stats for m in session.conversation.reversed_path() if m.stats is not None)
    last = next(counted, None)
    used = None if last is None else last.prompt_tokens + last.generated_tokens
    run = session.reply
    if run is not None and run.started:
        used = (used or 0) + (run.prefill.total if run.prefill else 0) + run.count
    return used


def context_limit(session: Session) -> int | None:
    """The model's context length, or max_length if that is lower."""
    if session.model is None:
        return None
    max_length = session.conversation.params.with_defaults(session.model.defaults).max_length
    limits = [n for n in (session.model.context_length, max_length) if n is not None]
    return min(limits, default=None)


def device_memories(
    session: Session, memories: tuple[DeviceMemory, ...]
) -> tuple[DeviceMemory, ...]:
    """The measured memories, with the model's share now and at full context."""
    cached = session.cached_tokens
    if session.reply is not None and session.reply.started:
        cached = max(cached, context_used(session) or 0)
    return with_model_memory(memories, model_memory(session.model, cached, context_limit(session)))


def session_status(
    session: Session, memories: tuple[DeviceMemory, ...], now: float, *, unsaved: bool
) -> Status:
    """The content of the status bar."""
    text, level = state_text(session, now)
    if session.dropped_turns:
        text += _(", oldest {count:,} left out").format(count=session.dropped_turns)
    if unsaved:
        text, level = _("not saved, {state}").format(state=text), "error"
    limit = context_limit(session)
    used = context_used(session)
    return Status(
        state=text,
        level=level,
        model=session.model_display_name,
        used=0 if used is None and limit is not None else used,
        limit=limit,
        memories=device_memories(session, memories),
    )


def welcome_text(session: Session, key_label: KeyLabel) -> str:
    """The text of the empty page: the model, and the most important keys."""
    labels = {
        "help": _("help"),
        "settings": _("settings"),
        "model": _("models"),
        "open": _("saved chats"),
    }
    hints = "   ".join(f"{key_label(action)} {label}" for action, label in labels.items())
    return f"{model_line(session, key_label)}\n\n{hints}"


def model_line(session: Session, key_label: KeyLabel) -> str:
    """The loaded model, or why there is none: "smollm2 · int4 g32 · cpu · 8,192 tokens"."""
    if session.model is not None:
        return sanitize_line(model_summary(session.model))  # names are those of files and servers
    if session.loading is not None:
        text = _("Loading {model}. You can already type.")
        return sanitize_line(text.format(model=session.loading[0]))
    return _("No model. {key} picks one.").format(key=key_label("model"))


def model_summary(model: LoadedInfo) -> str:
    """A description of a loaded model on one line."""
    parts = [model.name, model.quant or model.dtype, model.kernel, model.device]
    if model.context_length is not None:
        parts.append(_("{count} tokens").format(count=format_token_count(model.context_length)))
    if model.weight_bytes is not None:
        parts.append(f"{format_gigabytes(model.weight_bytes)} GB")
    if model.saved_bytes:
        text = _("{size:.0f} MB of image tokens left out")
        parts.append(text.format(size=model.saved_bytes / 1e6))
    if model.backend == "compatibility":
        why = f" ({model.compatibility_reason})" if model.compatibility_reason else ""
        parts.append(_("compatibility") + why)
    return " · ".join(part for part in parts if part)


def error_text(error: GlmtuiError | None) -> str:
    """The error with its hint, or ""."""
    return "" if error is None else str(error)


def conversation_title(conversation: Conversation) -> str:
    """The title, or a placeholder if there is none."""
    return sanitize_line(conversation.title) or _("New conversation")  # /title sets it as typed


def deletion_notice(count: int) -> str:
    """Tells how many messages were deleted and how to undo it."""
    text = ngettext("Deleted {count} message", "Deleted {count} messages", count)
    return _("{deleted}. Undo: /undo").format(deleted=text.format(count=count))


def memory_warning(
    session: Session, memories: tuple[DeviceMemory, ...], key_label: KeyLabel
) -> str:
    """A warning if a device is nearly full and the context cannot grow to its limit; else ""."""
    for memory in device_memories(session, memories):
        if memory.is_low:
            text = _("{name} is nearly full: the full context needs {size} GB more than is free.")
            warning = text.format(name=memory.name, size=format_gigabytes(memory.shortfall))
            details = _("{key} shows details.").format(key=key_label("stats"))
            return f"{warning}\n{memory_advice()} {details}"
    return ""


def memory_advice() -> str:
    """How the user can free memory."""
    return _(
        "/keep N sends only the last N turns to the model; /quant int8 or /quant int4 makes the "
        "weights smaller; /clear frees the KV cache."
    )


def _rate(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"


def save_error_notice(error: StoreError | None) -> str:
    """The notice while a conversation cannot be saved; "" if it can."""
    if error is None:
        return ""
    hint = _("The conversation is kept in memory and saving is retried; /export saves a copy.")
    return f"{error}\n{hint}"


def copy_notice(why: StoreError) -> str:
    """The notice when a conversation continues in a copy, because another program has it open."""
    hint = _("The conversation continues in a copy, which is saved.")
    return f"{why.message}\n{hint}"


def no_locks_notice(reason: str) -> str:
    """The notice if the file system has no locks, as some network file systems."""
    return _(
        "The disk with the conversations does not support file locks ({reason}). Do not open a "
        "conversation in two glmtui at once: nothing is overwritten, but only one of them can "
        "save to it."
    ).format(reason=reason)
