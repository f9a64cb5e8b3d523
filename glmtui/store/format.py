"""A conversation as text: TOML or JSON to keep, Markdown to read. Knows nothing of files.

Format 1, the same in TOML and JSON. Made to be read and edited by a person:

    format = 1
    id = "1f2e3d4c"
    title = "..."
    model = "smollm2"
    pinned = true               # absent: not
    created = 2026-11-22 18:00:00+00:00
    system = "..."              # absent: the model's own
    [params]                    # only what was set
    temperature = 0.7
    [[messages]]
    role = "user"
    time = 2026-11-22 18:00:01+00:00
    content = "..."
    [[messages]]
    role = "assistant"
    time = 2026-11-22 18:00:03+00:00
    model = "smollm2"
    finish_reason = "stop"      # absent: the reply was cut
    content = "..."
    [messages.stats]
    generated_tokens = 12

A message follows the one above it. Only where a branch makes that untrue do messages carry `id`
and `parent` (empty at the root), and the file `head`, the last message in view. Whatever a person
leaves out is filled in; a parent that is gone is replaced by the message above; unknown keys are
ignored, as are the ids of a plain list.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from typing import Any, Literal, TypeAlias, get_args

import tomli
import tomli_w

from glmtui.chat import (
    Conversation,
    FinishReason,
    GenerationStats,
    Message,
    Role,
    SamplingParams,
    make_title,
    new_conversation_id,
    now,
)
from glmtui.errors import CorruptConversation, NewerFormat
from glmtui.language import _
from glmtui.net.addresses import shown_name
from glmtui.store.toml import is_plain, load_toml, message_in
from glmtui.store.values import Table, numbers_of, one_of, time_of, value_of

FORMAT = 1
LARGE_TOML = 1 << 20
"""Characters of a TOML file from which on a list does not parse all of it: tomli takes a second and
60 MB for each million."""
FileFormat: TypeAlias = Literal["toml", "json"]
ID = re.compile(r"[0-9a-f]{8}")
ROLES: tuple[str, ...] = get_args(Role)
REASONS: tuple[str, ...] = get_args(FinishReason)


# ---- writing


def dumps(conversation: Conversation, file_format: FileFormat) -> str:
    """The text of a conversation file. Lone surrogates, which no file can hold, become U+FFFD."""
    table = _tables(conversation)
    if file_format == "toml":
        text = _toml(table)
    else:
        text = json.dumps(table, ensure_ascii=False, indent=2, default=datetime.isoformat) + "\n"
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _tables(conversation: Conversation) -> Table:
    """The file's keys and values, empty ones left out."""
    plain = _is_plain(conversation)
    table = {
        "format": FORMAT,
        "id": conversation.id,
        "title": conversation.title,
        "model": shown_name(conversation.model),
        "pinned": conversation.pinned,
        "created": conversation.created.astimezone(timezone.utc),
        "head": None if plain else conversation.head or "",
        "system": conversation.system,
        "params": _numbers_set(conversation.params),
        "messages": [message_table(message, plain) for message in conversation.messages],
    }
    return {k: v for k, v in table.items() if v or (k in ("head", "system") and v is not None)}


def _is_plain(conversation: Conversation) -> bool:
    """Whether the messages are one line, with the ids that reading a plain list gives them."""
    last = None
    for n, message in enumerate(conversation.messages, 1):
        if message.id != f"m{n}" or message.parent != last:
            return False
        last = message.id
    return conversation.head == last


def message_table(message: Message, plain: bool) -> dict[str, Any]:
    """A message's keys and values; `plain` without its place among the others."""
    table: Table = {} if plain else {"id": message.id, "parent": message.parent or ""}
    table["role"] = message.role
    if message.created is not None:
        table["time"] = message.created.astimezone(timezone.utc)
    for key in ("model", "metadata", "finish_reason", "error"):
        if value := getattr(message, key):
            table[key] = shown_name(value) if key == "model" else value
    table["content"] = message.content
    if message.stats is not None:
        table["stats"] = _numbers_set(message.stats)
    return table


def _numbers_set(numbers: SamplingParams | GenerationStats) -> Table:
    """The fields that differ from their defaults. NaN and infinities say nothing and stay out."""
    values = {f.name: (getattr(numbers, f.name), f.default) for f in fields(numbers)}
    return {
        name: value
        for name, (value, default) in values.items()
        if value != default and not (isinstance(value, float) and not math.isfinite(value))
    }


def _toml(table: Table) -> str:
    parts = [
        tomli_w.dumps({k: v for k, v in table.items() if k not in ("system", "params", "messages")})
    ]
    if "system" in table:
        parts.append(f"system = {_toml_text(table['system'])}\n")
    if "params" in table:
        parts.append("\n[params]\n" + tomli_w.dumps(table["params"]))
    for message in table.get("messages", ()):
        short = {k: v for k, v in message.items() if k not in ("content", "stats")}
        parts.append("\n[[messages]]\n" + "".join(itertools.starmap(_toml_pair, short.items())))
        parts.append(f"content = {_toml_text(message['content'])}\n")
        if "stats" in message:
            parts.append("\n[messages.stats]\n" + tomli_w.dumps(message["stats"]))
    return "".join(parts)


def _toml_pair(key: str, value: Any) -> str:
    """What tomli_w writes, without its detours for what most values are."""
    if isinstance(value, datetime):
        return f"{key} = {value.isoformat(' ')}\n"
    if isinstance(value, str) and not _NOT_SIMPLE.search(value):
        return f'{key} = "{value}"\n'
    return tomli_w.dumps({key: value})


_NOT_SIMPLE = re.compile(r'["\\\n\x00-\x08\x0b-\x1f\x7f]')


def _toml_text(text: str) -> str:
    """A TOML string that a person reads as the text it is, wherever TOML can hold it so.

    tomli_w would escape every quote and backslash of a program, and turn CR LF into LF. A line
    ``[[messages]]`` never stands in a text as such: `peek` finds messages by it.
    """
    if not _NOT_SIMPLE.search(text):
        return f'"{text}"'
    looks_new = text.startswith("[[messages]]") or "\n[[messages]]" in text
    if "'''" not in text and is_plain(text) and not looks_new:
        return f"'''\n{text}'''"
    # JSON's escapes are TOML's, but for DEL.
    lines = (json.dumps(line, ensure_ascii=False)[1:-1] for line in text.split("\n"))
    body = "\n" + "\n".join(lines).replace("\x7f", "\\u007f")
    return '"""' + body.replace("\n[[messages]]", "\n\\u005b[messages]]") + '"""'


# ---- reading


def loads(text: str, file_format: FileFormat) -> Conversation:
    """The conversation in a file's text.

    Raises CorruptConversation with the reason, NewerFormat if this version cannot know the text.
    """
    return from_table(parse(text, file_format))


@dataclass(frozen=True, slots=True)
class Peek:
    """What a list of conversations shows of one."""

    title: str
    model: str
    message_count: int
    pinned: bool


def peek(text: str, file_format: FileFormat) -> Peek:
    """What `loads` would say, from the head and the last message alone: 20 times as fast.

    Finds what is wrong there, and so a file that was cut short; not a fault in the middle. Of a
    large TOML file that is not as we write it, nothing is parsed but what looks like its title.
    Raises like `loads`.
    """
    try:
        data, count = _toml_ends(text) if file_format == "toml" else _json_ends(text)
        if "title" in data:
            conversation = from_table(data)
            return _peeked(conversation, count)
    except (CorruptConversation, ValueError, LookupError, TypeError, RecursionError):
        pass  # not as we write it, or a text that looks like a message: the whole decides
    if file_format == "toml" and len(text) > LARGE_TOML:
        return _glimpse(text)
    conversation = loads(text, file_format)
    return _peeked(conversation, len(conversation.messages))


def _peeked(conversation: Conversation, count: int) -> Peek:
    return Peek(conversation.title, conversation.model, count, conversation.pinned)


def _glimpse(text: str) -> Peek:
    """What can be said of a TOML file without parsing it."""
    found = {key: re.search(rf'^{key} = "([^"\\\n]*)"$', text, re.M) for key in ("title", "model")}
    title, model = (match[1] if match else "" for match in found.values())
    return Peek(title, model, text.count("[[messages]]"), False)


def _toml_ends(text: str) -> tuple[Table, int]:
    """The head with the last message, and how many messages there are."""
    between = "\n[[messages]]"
    end = text.index(between)
    if end > LARGE_TOML:
        raise ValueError
    head = tomli.loads(text[:end])
    count = len(head.get("messages", ())) + text.count(between)
    return head | {"messages": [message_in(text[text.rindex(between) :], LARGE_TOML)]}, count


def _json_ends(text: str) -> tuple[Table, int]:
    data = json.loads(text)
    return data | {"messages": data["messages"][-1:]}, len(data["messages"])


def parse(text: str, file_format: FileFormat) -> Any:
    """The tables and lists in a text. Raises CorruptConversation."""
    try:
        return load_toml(text) if file_format == "toml" else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptConversation(
            _("this is not {kind}: {error}").format(kind=file_format.upper(), error=error)
        ) from error


def from_table(data: Any) -> Conversation:
    """The conversation that a parsed text describes. Raises like `loads`."""
    if not isinstance(data, dict):
        raise CorruptConversation(_("this is not a conversation"))
    version = value_of(data, "format", int, FORMAT)
    if version > FORMAT:
        raise NewerFormat(
            _("its format is {version}; this glmtui reads up to {most}").format(
                version=version, most=FORMAT
            ),
            _("Update glmtui to open it."),
        )
    messages = _messages(value_of(data, "messages", list, []))
    created = time_of(data, "created")
    if created is None:
        created = next((m.created for m in messages if m.created), None) or now()
    titles = (make_title(m.content) for m in messages if m.role == "user")
    head: str | None = value_of(data, "head", str, messages[-1].id if messages else "")
    if head not in {m.id for m in messages}:
        head = messages[-1].id if messages and head else None
    conversation_id = value_of(data, "id", str, "")
    return Conversation(
        id=conversation_id if ID.fullmatch(conversation_id) else new_conversation_id(),
        created=created,
        title=value_of(data, "title", str, "") or next(filter(None, titles), ""),
        model=shown_name(value_of(data, "model", str, "")),
        pinned=data.get("pinned") is True,
        system=value_of(data, "system", str, None),
        params=numbers_of(SamplingParams, value_of(data, "params", dict, {})),
        messages=messages,
        head=head,
    )


def _messages(rows: list[Any]) -> tuple[Message, ...]:
    taken = {row["id"] for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)}
    messages: dict[str, Message] = {}
    last = ""
    for n, row in enumerate(rows, 1):
        try:
            if not isinstance(row, dict):
                raise CorruptConversation(_("is not a table"))
            name, parent = value_of(row, "id", str, ""), value_of(row, "parent", str, last)
            if not name or name in messages:
                name = _free_id(n, taken)
            if parent and parent not in messages:
                parent = last
            messages[name] = message_of(row, name, parent or None)
        except CorruptConversation as error:
            raise CorruptConversation(
                _("message {n}: {what}").format(n=n, what=error.message)
            ) from error
        last = name
    return tuple(messages.values())


def _free_id(n: int, taken: set[str]) -> str:
    while f"m{n}" in taken:
        n += 1
    taken.add(f"m{n}")
    return f"m{n}"


def message_of(row: Table, name: str, parent: str | None) -> Message:
    """The message that a table describes, under this id. Raises CorruptConversation."""
    if "content" not in row:
        raise CorruptConversation(_("has no content"))
    ended = row.get("finish_reason")
    stats = value_of(row, "stats", dict, None)
    return Message(
        role=one_of(ROLES, row, "role"),
        content=value_of(row, "content", str, ""),
        id=name,
        parent=parent,
        created=time_of(row, "time"),
        model=shown_name(value_of(row, "model", str, "")),
        finish_reason=one_of(REASONS, row, "finish_reason") if ended else None,
        stats=None if stats is None else numbers_of(GenerationStats, stats),
        error=value_of(row, "error", str, ""),
        metadata=value_of(row, "metadata", str, ""),
    )
