"""The message tree of a ChatGPT export: nodes by id, each with a message and a parent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from glmtui.store.values import Table


def flatten_tree(nodes: Mapping[str, Any], keep: Callable[[Table], bool]) -> list[Table]:
    """The messages that `keep` accepts, parents before children, each with its `id` and `parent`.

    The children of a message that is left out become children of its parent. A cycle of parents is
    broken at one of its nodes.
    """
    parents = {name: _parent(node) for name, node in nodes.items()}
    nearest: dict[str, str] = {}  # by node, the last accepted message at or above it
    rows = []
    for name in _top_down(parents):
        node = nodes[name]
        message = node.get("message") if isinstance(node, dict) else None
        nearest[name] = parent = nearest.get(parents[name], "")
        if isinstance(message, dict) and keep(message):
            rows.append({**message, "id": name, "parent": parent})
            nearest[name] = name
    return rows


def _parent(node: Any) -> str:
    parent = node.get("parent") if isinstance(node, dict) else None
    return parent if isinstance(parent, str) else ""


def _top_down(parents: Mapping[str, str]) -> Iterator[str]:
    """Every name once in depth-first order, parents before children."""
    children: dict[str, list[str]] = {}
    for name, parent in parents.items():
        children.setdefault(parent, []).append(name)
    roots = [name for name, parent in parents.items() if parent not in parents]
    seen: set[str] = set()
    for root in [*roots, *parents]:
        waiting = [root]
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                yield name
                waiting += reversed(children.get(name, []))
