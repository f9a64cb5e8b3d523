"""Tables for the command line: the models there are, the conversations there are.

Knows columns and their widths in terminal cells; where the rows come from is the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from rich.cells import cell_len, set_cell_size

from glmtui.config import Server
from glmtui.engine.api import ModelInfo
from glmtui.engine.catalog.registry import KnownModel
from glmtui.engine.hardware.machine import Snapshot, fits
from glmtui.engine.tokenization.chat_template import (
    TEMPLATE_FAMILIES,
    TEMPLATE_FILE,
    read_chat_template,
)
from glmtui.net.addresses import shown_address, shown_name
from glmtui.sanitize import one_line
from glmtui.store import Summary

GAP = "  "
FORMS = (None, "int8", "int4")  # ways to hold weights, largest first
LEAST = 8  # cells that a column keeps however narrow the terminal is


def table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int, elastic: int) -> str:
    """Rows as aligned columns, at most `width` cells wide.

    Args:
        head: the columns' names; one that starts with a space is set to the right.
        elastic: the column that is cut, with an ellipsis, where a line would be too long.
    """
    lines = [[one_line(cell) for cell in row] for row in (head, *rows)]
    widths = [max(cell_len(line[i]) for line in lines) for i in range(len(head))]
    over = sum(widths) + len(GAP) * (len(widths) - 1) - width
    if over > 0:
        widths[elastic] = max(widths[elastic] - over, min(widths[elastic], LEAST))
    right = [name.startswith(" ") for name in head]
    return "\n".join(
        GAP.join(_cell(*part) for part in zip(line, widths, right, strict=True)).rstrip()
        for line in lines
    )


def _cell(text: str, width: int, right: bool) -> str:
    if cell_len(text) > width:
        return set_cell_size(text, width - 1).rstrip() + "…"
    space = " " * (width - cell_len(text))
    return space + text if right else text + space


def size(nbytes: int) -> str:
    """Bytes for reading: "97 MB", "3.9 GB"; "n/a" for more than there are."""
    if not 0 <= nbytes < 1e18:
        return "n/a"
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 999.5e6 else f"{nbytes / 1e6:.0f} MB"


def ready(info: ModelInfo) -> str:
    """What to do with a model that has been fetched."""
    said = f"{info.name} is ready ({size(info.nbytes)})."
    if info.family not in TEMPLATE_FAMILIES or read_chat_template(info.path) is not None:
        return f"{said} Chat with it: glmtui -m {info.name}"
    return (
        f"{said} It came without a chat template, so it cannot chat yet.\n"
        f"If it is a chat model, put the template that it was published with into\n"
        f"{info.path / TEMPLATE_FILE}\nand chat with it: glmtui -m {info.name}"
    )


def conversations(summaries: Sequence[Summary], width: int) -> str:
    """A table of conversations, in the order they come."""
    rows = [
        (
            s.id,
            _when(s.updated),
            str(s.message_count),
            shown_name(s.model) or "-",
            s.title or "(no title)",
        )
        for s in summaries
    ]
    return table(("ID", "LAST CHANGED", " MESSAGES", "MODEL", "TITLE"), rows, width, elastic=4)


def _when(moment: datetime) -> str:
    """Date and time where the reader is."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"


def models(
    installed: Sequence[ModelInfo], known: Sequence[KnownModel], machine: Snapshot, width: int
) -> str:
    """A table of what is on this machine and what can be pulled.

    Each known model has the memory that it needs with its whole context, in GB, at 16, 8 and 4
    bits, and the most of these that fits what is free on this machine.
    """
    here = {info.name: info for info in installed}
    named = {model.name: model for model in known}
    rows = [
        (
            info.name,
            size(info.nbytes),
            f"{info.context_length:,}",
            *_needs(named.get(info.name)),
            "ready",
        )
        for info in installed
    ]
    rows += [
        (
            model.name,
            size(model.disk_nbytes),
            f"{model.context_length:,}",
            *_needs(model),
            _fitting(model, machine),
        )
        for model in known
        if model.name not in here
    ]
    head = ("NAME", " SIZE", " CONTEXT", " FP16", " INT8", " INT4", "STATE")
    return table(head, rows, width, elastic=0)


def _needs(model: KnownModel | None) -> tuple[str, ...]:
    if model is None:
        return ("",) * len(FORMS)
    return tuple(
        f"{model.memory_nbytes(form) / 1e9:.1f}" if _offered(model, form) else "-" for form in FORMS
    )


def _offered(model: KnownModel, form: str | None) -> bool:
    """Whether a model can be held so: what is stored in few bits is not held in more."""
    return model.stored is None or form == model.stored


def _fitting(model: KnownModel, machine: Snapshot) -> str:
    """The largest form of a model that fits, in words."""
    room = None
    for form in FORMS:
        if _offered(model, form):
            room = fits(model.memory_nbytes(form), machine)
            if room.fits:
                return "fits" if form == model.stored else f"fits as {form}"
    return "fit unknown" if room is None or room.fits is None else "too large"


def servers(named: Mapping[str, Server], width: int) -> str:
    """A table of the servers in the settings."""
    rows = [
        (name, server.model or "(its first)", shown_address(server.url))
        for name, server in named.items()
    ]
    return table(("SERVER", "MODEL", "ADDRESS"), rows, width, elastic=2)
