"""ModelPicker: the models that are here or can be had, what fits, and the fetching of one.

Knows the catalog and asks how much memory is free; loads nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from glmtui.config import Settings
from glmtui.engine.catalog import resolver
from glmtui.engine.catalog.registry import DEFAULT_MODEL, MODELS, KnownModel, known_model
from glmtui.engine.hardware.machine import Snapshot, fits, snapshot
from glmtui.engine.model_info import ModelInfo
from glmtui.engine.progress import CancelFlag, Progress, ProgressHook
from glmtui.errors import GlmtuiError, ModelError
from glmtui.language import _
from glmtui.net.addresses import redact_url
from glmtui.sanitize import sanitize, sanitize_line
from glmtui.ui.dialogs.list_dialog import Picker, Row
from glmtui.ui.widgets.meters import bar, gigabytes

Fetch = Callable[[ProgressHook, CancelFlag], ModelInfo]

CONTEXT_TOKENS = 2048  # what a conversation should have room for at the least


def fit(known: KnownModel, machine: Snapshot, quant: str) -> tuple[bool | None, str]:
    """Whether a model, held as the setting `quant` says, fits with a short conversation.

    Returns: yes, no, or None where the machine does not tell; and that in a few words.
    """
    held = {"auto": known.stored_quant, "none": None}.get(quant, quant)
    needed = known.memory_nbytes(held, min(CONTEXT_TOKENS, known.context_length))
    room = fits(needed, machine)
    if room.fits:
        return True, _("fits, {size} GB to fetch").format(size=gigabytes(known.disk_nbytes))
    free = [gpu.free for gpu in machine.gpus] or [machine.memory.available]
    most = max((n for n in free if n is not None), default=None)
    if most is None:
        return room.fits, _("needs {size} GB").format(size=gigabytes(needed))
    text = _("needs {size} GB, {free} free")
    return room.fits, text.format(size=gigabytes(needed), free=gigabytes(most))


def rows(settings: Settings, installed: list[ModelInfo], machine: Snapshot) -> list[Row]:
    """What can be picked: models that are here, known ones that can be fetched, servers."""
    here = {model.name: model for model in installed}
    found = []
    for model in installed:
        found.append(
            _row(model.name, model.title, _("here, {size} GB").format(size=gigabytes(model.nbytes)))
        )
    for known in MODELS:
        if known.name not in here:
            has_room, note = fit(known, machine, settings.quant)
            style = {True: "$text-success", False: "$text-warning", None: "$text-muted"}[has_room]
            found.append(_row(known.name, known.title, note, style))
    for name, server in settings.servers.items():
        asked = server.model or _("its first model")
        found.append(_row(name, f"{name}: {asked}", redact_url(server.url)))
    return found


def _row(name: str, title: str, note: str, style: str = "$text-muted") -> Row:
    shown = sanitize_line(title or name)
    label = Content.assemble(
        Content(shown).truncate(36, ellipsis=True, pad=True),
        "  ",
        (sanitize_line(note), style),
    )
    return Row(name, label, f"{name} {title} {note}".lower())


class ModelPicker(Picker):
    """Answers with a name: a row's, or whatever else was typed (a folder, a hub id, an address).

    Args:
        wanted: the model to highlight.
        why: why it is asked, if not because the user wants to.
    """

    def __init__(self, settings: Settings, wanted: str = "", why: str = "") -> None:
        known = known_model(wanted or DEFAULT_MODEL)
        super().__init__(
            _("Models"),
            rows(settings, resolver.installed_models(), snapshot()),
            selected=known.name if known else wanted,
            note=why,
            foot=_("Enter fetches and loads. Or type a folder, ORG/NAME, http://…"),
            typed_too=True,
        )


def can_be_fetched(name: str) -> bool:
    """Whether `pull` might bring a model of this name: a known one, or one on the hub."""
    return known_model(name) is not None or name.count("/") == 1


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
            yield Static(
                Content(_("Fetching {model}").format(model=sanitize_line(self._wanted))),
                classes="heading",
            )
            yield self._line
            yield Static(Content(_("Esc stops")), classes="help")

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
        self._line.update(Content(_("starting")))
        app = self.app  # this dialog may be closed before the thread ends
        threading.Thread(target=self._work, args=(app.call_later,), daemon=True).start()

    def _work(self, soon: Callable[..., object]) -> None:
        try:
            model = self._fetch(partial(self._report, soon), self._cancelled)
        except GlmtuiError as error:
            soon(self._fail, error)
        except BaseException as error:  # a fault of ours: say so, then let it be logged
            soon(self._fail, ModelError(_("Fetching failed: {error!r}.").format(error=error)))
            raise
        else:
            soon(self._succeed, model)

    def _report(self, soon: Callable[..., object], progress: Progress) -> None:
        now = time.monotonic()
        if now - self._told_at >= 0.1:  # it comes with every chunk
            self._told_at = now
            soon(self._show, progress)

    def _show(self, progress: Progress) -> None:
        if not self._cancelled.is_set() and not self._failed:
            self._line.update(progress_text(progress, self._line.size.width))

    def _fail(self, error: GlmtuiError) -> None:
        if not self._cancelled.is_set():
            self._failed = True
            text = sanitize(str(error)) + "\n" + _("Enter tries again.")
            self._line.update(Content.styled(text, "$text-error"))

    def _succeed(self, model: ModelInfo) -> None:
        if not self._cancelled.is_set():
            self.dismiss(model)


def progress_text(progress: Progress, width: int) -> Content:
    """What is being done, and a bar with percent and GB where the end is known."""
    what = Content(sanitize_line(progress.what)).truncate(width, ellipsis=True)
    if not progress.total:
        return what
    share = progress.done / progress.total
    numbers = f" {share:4.0%}  {gigabytes(progress.done)}/{gigabytes(progress.total)} GB"
    line = bar([(share, "━", "$accent")], max(0, width - len(numbers)))
    return Content("\n").join([what, line + Content.styled(numbers, "$text-muted")])
