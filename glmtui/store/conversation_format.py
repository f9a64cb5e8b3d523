"""The file format of conversations, version 1, the same in TOML and JSON.

It is meant to be read and edited by hand:

    format = 1
    id = "1f2e3d4c"
    title = "..."
    model = "smollm2"
    pinned = true               # absent: not pinned
    created = 2026-11-22 18:00:00+00:00
    system = "..."              # absent: the model's default
    [params]                    # only values that were set
    temperature = 0.7
    [[messages]]
    role = "user"
    time = 2026-11-22 18:00:01+00:00
    content = "..."
    [[messages]]
    role = "assistant"
    time = 2026-11-22 18:00:03+00:00
    model = "smollm2"
    finish_reason = "stop"      # absent: the reply was interrupted
    content = "..."
    [messages.stats]
    generated_tokens = 12

Each message follows the one above it. Only if the conversation has branches, messages have an `id`
and a `parent` (empty at the root), and the file has a `head`, the last message of the current
branch. Missing values are filled in; a missing parent is replaced by the message above; unknown
keys are ignored.
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
from glmtui.net.addresses import redact_if_url
from glmtui.store.values import Table, numbers_of, one_of, time_of, value_of

FORMAT = 1
LARGE_TOML = 1 << 20
"""Characters above which `peek` does not parse TOML that others may have written: a million of them
can take tomli a second and 60 MB."""
FileFormat: TypeAlias = Literal["toml", "json"]
ID = re.compile(r"[0-9a-f]{8}")
ROLES: tuple[str, ...] = get_args(Role)
REASONS: tuple[str, ...] = get_args(FinishReason)


# ---- writing


def dumps(conversation: Conversation, file_format: FileFormat) -> str:
    """The text of a conversation file. Lone surrogates, which UTF-8 lacks, become U+FFFD."""
    table = _tables(conversation)
    if file_format == "toml":
        text = _toml(table)
    else:
        text = json.dumps(table, ensure_ascii=False, indent=2, default=datetime.isoformat) + "\n"
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _tables(conversation: Conversation) -> Table:
    """The keys and values of the file, without empty ones."""
    plain = _is_plain(conversation)
    table = {
        "format": FORMAT,
        "id": conversation.id,
        "title": conversation.title,
        "model": redact_if_url(conversation.model),
        "pinned": conversation.pinned,
        "created": conversation.created.astimezone(timezone.utc),
        "head": None if plain else conversation.head or "",
        "system": conversation.system,
        "params": _numbers_set(conversation.params),
        "messages": [message_table(message, plain) for message in conversation.messages],
    }
    return {k: v for k, v in table.items() if v or (k in ("head", "system") and v is not None)}


def _is_plain(conversation: Conversation) -> bool:
    """Whether the messages have no branches, and the ids that reading them without ids gives."""
    last = None
    for n, message in enumerate(conversation.messages, 1):
        if message.id != f"m{n}" or message.parent != last:
            return False
        last = message.id
    return conversation.head == last


def message_table(message: Message, plain: bool) -> dict[str, Any]:
    """The keys and values of a message; `plain` leaves out `id` and `parent`."""
    table: Table = {} if plain else {"id": message.id, "parent": message.parent or ""}
    table["role"] = message.role
    if message.created is not None:
        table["time"] = message.created.astimezone(timezone.utc)
    for key in ("model", "metadata", "finish_reason", "error"):
        if value := getattr(message, key):
            table[key] = redact_if_url(value) if key == "model" else value
    table["content"] = message.content
    if message.stats is not None:
        table["stats"] = _numbers_set(message.stats)
    return table


def _numbers_set(numbers: SamplingParams | GenerationStats) -> Table:
    """The fields that differ from their defaults, without NaN and infinities."""
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
    """A key and its value as tomli_w writes them, but faster for times and simple strings."""
    if isinstance(value, datetime):
        return f"{key} = {value.isoformat(' ')}\n"
    if isinstance(value, str) and not _NOT_SIMPLE.search(value):
        return f'{key} = "{value}"\n'
    return tomli_w.dumps({key: value})


_NOT_SIMPLE = re.compile(r'["\\\n\x00-\x08\x0b-\x1f\x7f]')
_NOT_LITERAL = re.compile(r"'''|[\x00-\x08\x0b-\x1f\x7f]")


def _toml_text(text: str) -> str:
    """A TOML string, as a literal string without escapes wherever TOML allows it.

    tomli_w would escape every quote and backslash of source code, and turn CR LF into LF. A line
    ``[[messages]]`` in the text is escaped, because `peek` counts messages by it.
    """
    if not _NOT_SIMPLE.search(text):
        return f'"{text}"'
    looks_new = text.startswith("[[messages]]") or "\n[[messages]]" in text
    if not _NOT_LITERAL.search(text) and not looks_new:
        return f"'''\n{text}'''"
    # JSON and TOML have the same escapes, except for DEL.
    lines = (json.dumps(line, ensure_ascii=False)[1:-1] for line in text.split("\n"))
    body = "\n" + "\n".join(lines).replace("\x7f", "\\u007f")
    return '"""' + body.replace("\n[[messages]]", "\n\\u005b[messages]]") + '"""'


# ---- reading


def loads(text: str, file_format: FileFormat) -> Conversation:
    """Parses the text of a conversation file.

    Raises:
        CorruptConversation: the text cannot be parsed; the message says why.
        NewerFormat: a newer glmtui wrote it.
    """
    return from_table(parse(text, file_format))


@dataclass(frozen=True, slots=True)
class Peek:
    """What lists show of a conversation."""

    title: str
    model: str
    message_count: int
    pinned: bool


def peek(text: str, file_format: FileFormat) -> Peek:
    """Reads what lists show from the head and the last message only: 20 times as fast as `loads`.

    It notices errors there, and so a truncated file, but no error in the middle. In a large TOML
    file that this program did not write, only lines that look like title and model are read.
    Raises like `loads`.
    """
    try:
        data, count = _toml_ends(text) if file_format == "toml" else _json_ends(text)
        if "title" in data:
            conversation = from_table(data)
            return _peeked(conversation, count)
    except (CorruptConversation, ValueError, LookupError, TypeError, RecursionError):
        pass  # another program wrote it, or a text contains a line [[messages]]: parse it all
    if file_format == "toml" and len(text) > LARGE_TOML:
        return _scan(text)
    conversation = loads(text, file_format)
    return _peeked(conversation, len(conversation.messages))


def _peeked(conversation: Conversation, count: int) -> Peek:
    return Peek(conversation.title, conversation.model, count, conversation.pinned)


def _scan(text: str) -> Peek:
    """Title, model and number of messages of a TOML file that is not parsed."""
    found = {key: re.search(rf'^{key} = "([^"\\\n]*)"$', text, re.M) for key in ("title", "model")}
    title, model = (match[1] if match else "" for match in found.values())
    return Peek(title, model, text.count("[[messages]]"), False)


def _toml_ends(text: str) -> tuple[Table, int]:
    """The table of a TOML file with only its last message, and the number of messages.

    A last message longer than `LARGE_TOML` is left out.

    Raises:
        ValueError, LookupError: the file must be parsed as a whole.
    """
    between = "\n[[messages]]"
    end = text.index(between)
    if end > LARGE_TOML:
        raise ValueError
    head = tomli.loads(text[:end])
    count = len(head.get("messages", ())) + text.count(between)
    last = text[text.rindex(between) :]
    if len(last) > LARGE_TOML:
        return head | {"messages": []}, count
    table = tomli.loads(last)
    if table.keys() != {"messages"}:
        raise ValueError("there are tables after the last message")
    return head | table, count


def _json_ends(text: str) -> tuple[Table, int]:
    data = json.loads(text)
    return data | {"messages": data["messages"][-1:]}, len(data["messages"])


def parse(text: str, file_format: FileFormat) -> Any:
    """Parses TOML or JSON.

    Raises:
        CorruptConversation: the text is not valid.
    """
    try:
        return tomli.loads(text) if file_format == "toml" else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptConversation(
            _("this is not valid {kind}: {error}").format(kind=file_format.upper(), error=error)
        ) from error


def from_table(data: Any) -> Conversation:
    """Makes a conversation from a parsed file. Raises like `loads`."""
    if not isinstance(data, dict):
        raise CorruptConversation(_("this is not a conversation"))
    version = value_of(data, "format", int, FORMAT)
    if version > FORMAT:
        raise NewerFormat(
            _("it has format {version}; this glmtui reads formats up to {most}").format(
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
        model=redact_if_url(value_of(data, "model", str, "")),
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
    """Makes a message from a parsed table.

    Args:
        name: its id.

    Raises:
        CorruptConversation: a value is missing or of the wrong type.
    """
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
        model=redact_if_url(value_of(row, "model", str, "")),
        finish_reason=one_of(REASONS, row, "finish_reason") if ended else None,
        stats=None if stats is None else numbers_of(GenerationStats, stats),
        error=value_of(row, "error", str, ""),
        metadata=value_of(row, "metadata", str, ""),
    )
