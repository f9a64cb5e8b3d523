"""The chat template of a model's folder, as text."""

from __future__ import annotations

from pathlib import Path

from glmtui.engine.catalog.model_folder import read_model_file, read_optional_object

TEMPLATE_FILE = "chat_template.jinja"
MAX_TEMPLATE_BYTES = 1 << 20  # the longest known ones, with tools, have some 20 kB
TEMPLATE_FAMILIES = ("llama", "compatibility")  # the other families have their own prompt formats


def read_chat_template(folder: Path) -> str | None:
    """The content of chat_template.jinja, or else the template in tokenizer_config.json, or None.

    Raises BadCheckpoint.
    """
    path = folder / TEMPLATE_FILE
    if path.is_file():
        return read_model_file(path, MAX_TEMPLATE_BYTES).decode("utf-8", "replace")
    template = read_optional_object(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):  # several templates, each with a name
        entries = [entry for entry in template if isinstance(entry, dict)]
        template = {str(entry.get("name")): entry.get("template") for entry in entries}
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) and template.strip() else None
