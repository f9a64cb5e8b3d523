"""The fields of transformers' config classes, parsed from its source.

transformers is not imported: that takes seconds and loads torch.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any


@functools.cache
def transformers_fields(model_type: str) -> Mapping[str, Any]:
    """The fields of transformers' config class for a model_type, with their defaults.

    Empty if transformers has no such class. A default that is not a constant is None.
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
    """The fields of the class with this model_type in a module's source. Raises SyntaxError."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            fields = dict(_class_fields(node))
            if fields.get("model_type") == model_type:
                return {**fields, **dict(_init_arguments(node))}
    return {}


def _class_fields(config_class: ast.ClassDef) -> list[tuple[str, Any]]:
    """Annotated assignments in the class body, as newer versions declare fields."""
    found = []
    for node in config_class.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.append((node.target.id, _constant(node.value)))
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "model_type":
            found.append(("model_type", _constant(node.value)))
    return found


def _init_arguments(config_class: ast.ClassDef) -> list[tuple[str, Any]]:
    """Arguments of ``__init__`` with a default, as older versions declare fields."""
    for node in config_class.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            arguments = node.args.args[len(node.args.args) - len(node.args.defaults) :]
            pairs = zip(arguments, node.args.defaults, strict=True)
            return [(argument.arg, _constant(default)) for argument, default in pairs]
    return []


def _constant(node: ast.expr | None) -> Any:
    """The value of a literal, or of the ``default`` argument of a call; otherwise None."""
    if isinstance(node, ast.Call):
        for keyword in node.keywords:
            if keyword.arg == "default":
                return _constant(keyword.value)
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return None
