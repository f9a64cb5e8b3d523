"""The fields of transformers' config classes, read from its source without importing it."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any


@functools.cache
def transformers_fields(model_type: str) -> Mapping[str, Any]:
    """The fields of transformers' config class of that name, with their defaults.

    Read from its source: importing it takes seconds and torch. Empty where there is none; a
    default that is computed is None.
    """
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return {}
    folder = Path(spec.origin).with_name("models") / model_type
    try:
        return parse_config_class(
            (folder / f"configuration_{model_type}.py").read_text("utf-8"), model_type
        )
    except (OSError, SyntaxError, ValueError):
        return {}


def parse_config_class(source: str, model_type: str) -> Mapping[str, Any]:
    """The fields, and their defaults, of the class of that model_type. Raises SyntaxError."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            found = dict(_assigned(node))
            if found.get("model_type") == model_type:
                return {**found, **dict(_arguments(node))}
    return {}


def _assigned(body: ast.ClassDef) -> list[tuple[str, Any]]:
    """Names that a class gives values to, as newer versions declare fields."""
    found = []
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.append((node.target.id, _constant(node.value)))
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "model_type":
            found.append(("model_type", _constant(node.value)))
    return found


def _arguments(body: ast.ClassDef) -> list[tuple[str, Any]]:
    """Arguments of ``__init__``, as older versions declare fields."""
    for node in body.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            named = node.args.args[len(node.args.args) - len(node.args.defaults) :]
            pairs = zip(named, node.args.defaults, strict=True)
            return [(one.arg, _constant(default)) for one, default in pairs]
    return []


def _constant(node: ast.expr | None) -> Any:
    """The value of an expression that is a constant, or a call with a ``default``; else None."""
    if isinstance(node, ast.Call):
        for keyword in node.keywords:
            if keyword.arg == "default":
                return _constant(keyword.value)
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return None
