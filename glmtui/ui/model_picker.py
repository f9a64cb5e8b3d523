"""ModelPicker: the models that are here or can be had, what fits, and the fetching of one.

Knows the catalog and asks how much memory is free; loads nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from glmtui.config import Settings
from glmtui.engine import catalog, device
from glmtui.engine.api import CancelFlag, ModelInfo, Progress, ProgressHook
from glmtui.engine.device import Fit, Snapshot
from glmtui.errors import GlmtuiError, ModelError
from glmtui.sanitize import one_line, visible
from glmtui.ui.dialogs import Picker, Row
from glmtui.ui.status import bar, gigabytes

Fetch = Callable[[ProgressHook, CancelFlag], ModelInfo]

CONTEXT_TOKENS = 2048  # what a conversation should have room for at the least


def fit(known: catalog.KnownModel, machine: Snapshot, quant: str) -> Fit:
    """Whether a model, held as the setting `quant` says, fits with a short conversation."""
    held = {"auto": known.stored, "none": None}.get(quant, quant)
    needed = known.memory_nbytes(held, min(CONTEXT_TOKENS, known.context_length))
    return device.fits(needed, machine)


def rows(settings: Settings, installed: list[ModelInfo], machine: Snapshot) -> list[Row]:
    """What can be picked: models that are here, known ones that can be fetched, servers."""
    here = {model.name: model for model in installed}
    found = []
    for model in installed:
        found.append(_row(model.name, model.title, f"here, {gigabytes(model.nbytes)} GB"))
    for known in catalog.MODELS:
        if known.name not in here:
            room = fit(known, machine, settings.quant)
            size = f"{gigabytes(known.disk_nbytes)} GB to fetch"
            note = f"{room.text}, {size}" if room.fits else room.text
            found.append(_row(known.name, known.title, note, bad=room.fits is False))
    for name, server in settings.servers.items():
        found.append(_row(name, f"{name}: {server.model or 'its first model'}", server.url))
    return found


def _row(name: str, title: str, note: str, *, bad: bool = False) -> Row:
    shown = one_line(title or name)
    label = Content.assemble(
        Content(shown).truncate(36, ellipsis=True, pad=True),
        "  ",
        (one_line(note), "$text-warning" if bad else "$text-muted"),
    )
    return Row(name, label, f"{name} {title} {note}".lower())


class ModelPicker(Picker):
    """Answers with a name: a row's, or whatever else was typed (a folder, a hub id, an address)."""

    def __init__(self, settings: Settings, selected: str = "") -> None:
        super().__init__(
            "Models",
            rows(settings, catalog.installed(), device.snapshot()),
            selected=selected or catalog.DEFAULT_MODEL,
            foot="Enter fetches and loads   or type a folder, ORG/NAME, http://…   Esc closes",
            typed_too=True,
        )


def can_be_fetched(name: str) -> bool:
    """Whether `pull` might bring a model of this name: a known one, or one on the hub."""
    return catalog.known_model(name) is not None or name.count("/") == 1


class Fetching(ModalScreen[ModelInfo | None]):
    """Fetches a model with progress. Answers with it, or with None if Esc stopped it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", show=False),
        Binding("enter", "again", show=False),
    ]

    def __init__(self, name: str, fetch: Fetch) -> None:
        super().__init__()
        self._wanted = name
        self._fetch = fetch
        self._cancelled = CancelFlag()
        self._failed = False
        self._told_at = 0.0
        self._line = Static(Content(""))

    def compose(self) -> ComposeResult:
        """Name, progress, keys."""
        with Vertical(classes="dialog small"):
            yield Static(Content(f"Fetching {one_line(self._wanted)}"), classes="heading")
            yield self._line
            yield Static(Content("Esc stops"), classes="help")

    def on_mount(self) -> None:
        """Begins."""
        self._begin()

    def action_stop(self) -> None:
        """Stops fetching; what came so far is used by the next try."""
        self._cancelled.set()
        self.dismiss(None)

    def action_again(self) -> None:
        """Tries again after a failure."""
        if self._failed:
            self._begin()

    def _begin(self) -> None:
        self._failed = False
        self._line.update(Content("starting"))
        threading.Thread(target=self._work, name="glmtui-pull", daemon=True).start()

    def _work(self) -> None:
        try:
            model = self._fetch(self._report, self._cancelled)
        except GlmtuiError as error:
            self.app.call_later(self._fail, error)
        except Exception as error:  # a fault of ours: say so, then let it be logged
            self.app.call_later(self._fail, ModelError(f"Fetching failed: {error!r}."))
            raise
        else:
            self.app.call_later(self._succeed, model)

    def _report(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._told_at >= 0.1:  # it comes with every chunk
            self._told_at = now
            self.app.call_later(self._show, progress)

    def _show(self, progress: Progress) -> None:
        if not self._cancelled.is_set() and not self._failed:
            self._line.update(progress_text(progress, self._line.size.width))

    def _fail(self, error: GlmtuiError) -> None:
        if not self._cancelled.is_set():
            self._failed = True
            text = f"{visible(str(error))}\nEnter tries again."
            self._line.update(Content.styled(text, "$text-error"))

    def _succeed(self, model: ModelInfo) -> None:
        if not self._cancelled.is_set():
            self.dismiss(model)


def progress_text(progress: Progress, width: int) -> Content:
    """What is being done, and a bar with percent and GB where the end is known."""
    what = Content(one_line(progress.what)).truncate(width, ellipsis=True)
    if not progress.total:
        return what
    share = progress.done / progress.total
    numbers = f" {share:4.0%}  {gigabytes(progress.done)}/{gigabytes(progress.total)} GB"
    line = bar([(share, "━", "$accent")], max(0, width - len(numbers)))
    return Content("\n").join([what, line + Content.styled(numbers, "$text-muted")])
