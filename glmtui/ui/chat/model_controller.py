"""ModelController: picks, downloads and loads models."""

from __future__ import annotations

from functools import partial

from glmtui.engine.model_info import ModelInfo
from glmtui.engine.progress import CancelFlag, ProgressHook
from glmtui.errors import GlmtuiError, ModelNotFound
from glmtui.net.addresses import redact_if_url
from glmtui.ui.chat.host import Host


class ModelController:
    """The command /model."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._workspace = host.workspace

    def model(self, name: str = "") -> None:
        """Loads a model; without a name, lets the user pick one."""
        if name:
            self.load(name)
        else:
            self.pick()

    def pick(self, wanted: str = "", reason: str = "") -> None:
        """Opens the model picker.

        Args:
            wanted: the name to highlight.
            reason: why the user must pick a model, if that was not their wish.
        """
        from glmtui.ui.dialogs.model_picker import ModelPicker

        highlighted = redact_if_url(wanted or self._workspace.session.model_name)
        picker = ModelPicker(self._workspace.settings, highlighted, reason)
        self._host.open_dialog(
            picker, lambda name: self.load(name, download=True) if name else None
        )

    def load(self, name: str, *, download: bool = False) -> None:
        """Loads a model. One that is not installed is downloaded, or else offered in the picker."""
        try:
            self._workspace.load_model(name)
        except ModelNotFound as error:
            from glmtui.ui.dialogs.model_picker import DownloadDialog, is_downloadable

            if download and is_downloadable(name):
                dialog = DownloadDialog(name, partial(self._download, name))
                self._host.open_dialog(dialog, self._on_download)
            else:
                self.pick(name, error.message)
        except GlmtuiError as error:
            self._host.notice.set("load", str(error))

    def _download(self, name: str, on_progress: ProgressHook, cancelled: CancelFlag) -> ModelInfo:
        from glmtui.engine.pull import pull

        endpoint = self._workspace.settings.endpoint
        return pull(name, endpoint=endpoint, on_progress=on_progress, cancelled=cancelled)

    def _on_download(self, model: ModelInfo | None) -> None:
        if model is not None:
            options = self._workspace.settings.load_options
            self._workspace.session.load(model, model.name, options)
