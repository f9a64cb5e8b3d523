"""The tree of messages in an export of ChatGPT: nodes by id, each with a message and a parent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from glmtui.store.values import Table


def tree_rows(nodes: Mapping[str, Any], keep: Callable[[Table], bool]) -> list[Table]:
    """The messages that `keep` says, parents before children, each with its `id` and `parent`.

    What follows a message that is not kept follows the one above it. Nodes whose parents make a
    circle begin a branch of their own.
    """
    above = {name: _parent(node) for name, node in nodes.items()}
    kept: dict[str, str] = {}  # of each node, the last message at or above it
    rows = []
    for name in _top_down(above):
        node = nodes[name]
        message = node.get("message") if isinstance(node, dict) else None
        kept[name] = before = kept.get(above[name], "")
        if isinstance(message, dict) and keep(message):
            rows.append({**message, "id": name, "parent": before})
            kept[name] = name
    return rows


def _parent(node: Any) -> str:
    parent = node.get("parent") if isinstance(node, dict) else None
    return parent if isinstance(parent, str) else ""


def _top_down(above: Mapping[str, str]) -> Iterator[str]:
    """Every name once, after the one above it, and each branch to its end."""
    below: dict[str, list[str]] = {}
    for name, parent in above.items():
        below.setdefault(parent, []).append(name)
    roots = [name for name, parent in above.items() if parent not in above]
    seen: set[str] = set()
    for root in [*roots, *above]:
        waiting = [root]
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                yield name
                waiting += reversed(below.get(name, []))
