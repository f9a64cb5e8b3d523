"""ModelPicker: lists installed models, models to download, and servers. DownloadDialog: downloads.

Knows the catalog and measures free memory, but loads no model.
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
from glmtui.engine.catalog.known_models import DEFAULT_MODEL, MODELS, KnownModel, known_model
from glmtui.engine.hardware.machine import Snapshot, fits, snapshot
from glmtui.engine.model_info import ModelInfo
from glmtui.engine.progress import CancelFlag, Progress, ProgressHook
from glmtui.errors import GlmtuiError, ModelError
from glmtui.language import _
from glmtui.net.addresses import redact_url
from glmtui.sanitize import sanitize, sanitize_line
from glmtui.ui.dialogs.list_dialog import Picker, PickerRow
from glmtui.ui.widgets.meters import bar, format_gigabytes

Download = Callable[[ProgressHook, CancelFlag], ModelInfo]

CONTEXT_TOKENS = 2048
"""Context for which a model must have memory to count as fitting: a short conversation."""


def memory_fit(known: KnownModel, machine: Snapshot, quant: str) -> tuple[bool | None, str]:
    """Whether a model with quantisation `quant` (the setting) fits into memory.

    Returns: True, False, or None if the free memory is unknown; and a text that says so.
    """
    quantisation = {"auto": known.stored_quant, "none": None}.get(quant, quant)
    needed = known.memory_nbytes(quantisation, min(CONTEXT_TOKENS, known.context_length))
    room = fits(needed, machine)
    if room.fits:
        return True, _("{size} GB download, fits").format(size=format_gigabytes(known.disk_nbytes))
    free = [gpu.free for gpu in machine.gpus] or [machine.memory.available]
    most = max((n for n in free if n is not None), default=None)
    if most is None:
        return room.fits, _("needs {size} GB").format(size=format_gigabytes(needed))
    text = _("needs {size} GB, {free} free")
    return room.fits, text.format(size=format_gigabytes(needed), free=format_gigabytes(most))


def model_rows(
    settings: Settings, installed: list[ModelInfo], machine: Snapshot
) -> list[PickerRow]:
    """Installed models, then known models that can be downloaded, then servers."""
    installed_names = {model.name for model in installed}
    rows = []
    for model in installed:
        rows.append(
            _row(
                model.name,
                model.title,
                _("installed, {size} GB").format(size=format_gigabytes(model.nbytes)),
            )
        )
    for known in MODELS:
        if known.name not in installed_names:
            has_room, note = memory_fit(known, machine, settings.quant)
            style = {True: "$text-success", False: "$text-warning", None: "$text-muted"}[has_room]
            rows.append(_row(known.name, known.title, note, style))
    for name, server in settings.servers.items():
        model_name = server.model or _("the server's first model")
        rows.append(_row(name, f"{name}: {model_name}", redact_url(server.url)))
    return rows


def _row(name: str, title: str, note: str, style: str = "$text-muted") -> PickerRow:
    # Names of folders, titles from manifests and addresses are sanitised here.
    label = Content.assemble(
        Content(sanitize_line(title or name)).truncate(36, ellipsis=True, pad=True),
        "  ",
        (sanitize_line(note), style),
    )
    return PickerRow(name, label, f"{name} {title} {note}".lower())


class ModelPicker(Picker):
    """Answers with the name of a model, or with other text: a folder, a hub name, an address.

    Args:
        selected: name of the model to highlight first.
        note: why the dialog was opened, if not by the user.
    """

    def __init__(self, settings: Settings, selected: str = "", note: str = "") -> None:
        known = known_model(selected or DEFAULT_MODEL)
        super().__init__(
            _("Models"),
            model_rows(settings, resolver.installed_models(), snapshot()),
            selected=known.name if known else selected,
            note=note,
            footer=_("Enter downloads and loads. Or type a folder, ORG/NAME, http://…"),
            accepts_text=True,
        )


def is_downloadable(name: str) -> bool:
    """Whether `pull` can download this name: a known model, or ORG/NAME on the hub."""
    return known_model(name) is not None or name.count("/") == 1


class DownloadDialog(ModalScreen[ModelInfo | None]):
    """Downloads a model and shows the progress. Answers with the model, or None if cancelled."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", show=False),
        Binding("enter", "retry", show=False),
    ]

    def __init__(self, name: str, download: Download) -> None:
        super().__init__()
        self._model_name = name
        self._download = download
        self._cancelled = CancelFlag()
        self._failed = False
        self._shown_at = 0.0
        self._line = Static(Content(""))

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog small"):
            yield Static(
                Content(_("Downloading {model}").format(model=sanitize_line(self._model_name))),
                classes="heading",
            )
            yield self._line
            yield Static(Content(_("Esc cancels")), classes="help")

    def on_mount(self) -> None:
        self._begin()

    def action_stop(self) -> None:
        """Cancels. The next download of this model resumes it."""
        self._cancelled.set()
        self.dismiss(None)

    def action_retry(self) -> None:
        if self._failed:
            self._begin()

    def _begin(self) -> None:
        self._failed = False
        self._line.update(Content(_("starting")))
        app = self.app  # this dialog may be closed before the thread ends
        threading.Thread(target=self._work, args=(app.call_later,), daemon=True).start()

    def _work(self, soon: Callable[..., object]) -> None:
        try:
            model = self._download(partial(self._report, soon), self._cancelled)
        except GlmtuiError as error:
            soon(self._fail, error)
        except BaseException as error:  # a bug: show it, and let it be logged
            soon(self._fail, ModelError(_("Download failed: {error!r}.").format(error=error)))
            raise
        else:
            soon(self._succeed, model)

    def _report(self, soon: Callable[..., object], progress: Progress) -> None:
        now = time.monotonic()
        if now - self._shown_at >= 0.1:  # it is called for every chunk
            self._shown_at = now
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
    """The current step, and a bar with percent and GB if the total is known."""
    what = Content(sanitize_line(progress.what)).truncate(width, ellipsis=True)
    if not progress.total:
        return what
    share = progress.done / progress.total
    numbers = (
        f" {share:4.0%}  {format_gigabytes(progress.done)}/{format_gigabytes(progress.total)} GB"
    )
    line = bar([(share, "━", "$accent")], max(0, width - len(numbers)))
    return Content("\n").join([what, line + Content.styled(numbers, "$text-muted")])
