"""Tables of the command line: models, conversations and servers in aligned columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from rich.cells import cell_len, set_cell_size

from glmtui.config import Server
from glmtui.engine.catalog.known_models import KnownModel
from glmtui.engine.hardware.machine import Snapshot, fits
from glmtui.engine.model_info import ModelInfo
from glmtui.engine.tokenization.chat_template import (
    TEMPLATE_FAMILIES,
    TEMPLATE_FILE,
    read_chat_template,
)
from glmtui.net.addresses import redact_if_url, redact_url
from glmtui.sanitize import sanitize_line
from glmtui.store import Summary

GAP = "  "
WEIGHT_FORMATS = (None, "int8", "int4")  # formats of weights in memory, largest first
MIN_COLUMN_WIDTH = 8  # cells; the elastic column keeps them on a narrow terminal


def format_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], width: int, elastic: int
) -> str:
    """Rows as aligned columns, at most `width` cells wide.

    Args:
        head: names of the columns; a column whose name starts with a space is right-aligned.
        elastic: index of the column that is cut, with an ellipsis, if lines are too long.
    """
    lines = [[sanitize_line(cell) for cell in row] for row in (head, *rows)]
    widths = [max(cell_len(line[i]) for line in lines) for i in range(len(head))]
    excess = sum(widths) + len(GAP) * (len(widths) - 1) - width
    if excess > 0:
        widths[elastic] = max(widths[elastic] - excess, min(widths[elastic], MIN_COLUMN_WIDTH))
    align_right = [name.startswith(" ") for name in head]
    return "\n".join(
        GAP.join(_cell(*part) for part in zip(line, widths, align_right, strict=True)).rstrip()
        for line in lines
    )


def _cell(text: str, width: int, align_right: bool) -> str:
    if cell_len(text) > width:
        return set_cell_size(text, width - 1).rstrip() + "…"
    padding = " " * (width - cell_len(text))
    return padding + text if align_right else text + padding


def format_size(nbytes: int) -> str:
    """A number of bytes, such as "97 MB" or "3.9 GB"; "n/a" if it is negative or above 1e18."""
    if not 0 <= nbytes < 1e18:
        return "n/a"
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 999.5e6 else f"{nbytes / 1e6:.0f} MB"


def pulled_message(info: ModelInfo) -> str:
    """The message after a model was pulled: how to use it."""
    message = f"{info.name} is ready ({format_size(info.nbytes)})."
    if info.family not in TEMPLATE_FAMILIES or read_chat_template(info.path) is not None:
        return f"{message} Chat with it: glmtui -m {info.name}"
    return (
        f"{message} It has no chat template, so it cannot chat yet.\n"
        f"If it is a chat model, save the template that it was published with as\n"
        f"{info.path / TEMPLATE_FILE}\nand chat with it: glmtui -m {info.name}"
    )


def conversations_table(summaries: Sequence[Summary], width: int) -> str:
    rows = [
        (
            s.id,
            _local_time(s.updated),
            str(s.message_count),
            redact_if_url(s.model) or "-",
            s.title or "(no title)",
        )
        for s in summaries
    ]
    return format_table(
        ("ID", "LAST CHANGED", " MESSAGES", "MODEL", "TITLE"), rows, width, elastic=4
    )


def _local_time(moment: datetime) -> str:
    """Date and time in the local time zone."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"


def models_table(
    installed: Sequence[ModelInfo], known: Sequence[KnownModel], machine: Snapshot, width: int
) -> str:
    """A table of the installed models and of the known models that can be pulled.

    Columns FP16, INT8 and INT4: memory in GB at 16, 8 and 4 bits with the model's whole context.
    STATE: for a model that is not installed, the largest format that fits into free memory.
    """
    installed_names = {info.name for info in installed}
    known_by_name = {model.name: model for model in known}
    rows = [
        (
            info.name,
            format_size(info.nbytes),
            f"{info.context_length:,}",
            *_memory_cells(known_by_name.get(info.name)),
            "installed",
        )
        for info in installed
    ]
    rows += [
        (
            model.name,
            format_size(model.disk_nbytes),
            f"{model.context_length:,}",
            *_memory_cells(model),
            _fit(model, machine),
        )
        for model in known
        if model.name not in installed_names
    ]
    head = ("NAME", " SIZE", " CONTEXT", " FP16", " INT8", " INT4", "STATE")
    return format_table(head, rows, width, elastic=0)


def _memory_cells(model: KnownModel | None) -> tuple[str, ...]:
    if model is None:
        return ("",) * len(WEIGHT_FORMATS)
    return tuple(
        f"{model.memory_nbytes(weight_format) / 1e9:.1f}"
        if _is_available(model, weight_format)
        else "-"
        for weight_format in WEIGHT_FORMATS
    )


def _is_available(model: KnownModel, weight_format: str | None) -> bool:
    """Whether a model can be loaded in a format; a quantised model only in its stored format."""
    return model.stored_quant is None or weight_format == model.stored_quant


def _fit(model: KnownModel, machine: Snapshot) -> str:
    """The largest format of a model that fits into memory."""
    room = None
    for weight_format in WEIGHT_FORMATS:
        if _is_available(model, weight_format):
            room = fits(model.memory_nbytes(weight_format), machine)
            if room.fits:
                return "fits" if weight_format == model.stored_quant else f"fits as {weight_format}"
    return "unknown" if room is None or room.fits is None else "too large"


def servers_table(named: Mapping[str, Server], width: int) -> str:
    rows = [
        (name, server.model or "(first listed)", redact_url(server.url))
        for name, server in named.items()
    ]
    return format_table(("SERVER", "MODEL", "ADDRESS"), rows, width, elastic=2)
