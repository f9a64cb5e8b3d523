"""The chat template that a model's folder brings, as text. Renders nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glmtui.engine.catalog.model_folder import read_json_object, read_model_file

TEMPLATE_FILE = "chat_template.jinja"
MAX_TEMPLATE_BYTES = 1 << 20
FROM_THE_FOLDER = ("llama", "compatibility")  # families that have no prompts of their own


def read_chat_template(folder: Path) -> str | None:
    """The template of chat_template.jinja, else of tokenizer_config.json; None where there is none.

    Raises BadCheckpoint.
    """
    path = folder / TEMPLATE_FILE
    if path.is_file():
        return read_model_file(path, MAX_TEMPLATE_BYTES).decode("utf-8", "replace")
    settings = folder / "tokenizer_config.json"
    return _default(read_json_object(settings)) if settings.is_file() else None


def _default(settings: Mapping[str, Any]) -> str | None:
    template = settings.get("chat_template")
    if isinstance(template, list):  # several named ones
        named = [one for one in template if isinstance(one, dict)]
        template = {str(one.get("name")): one.get("template") for one in named}
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) and template.strip() else None
