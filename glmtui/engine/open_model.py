"""open_model: loads a model into this process, or connects to a server.

Torch is imported here, when the first model is loaded; what must happen before that does too.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import os
import sys
import threading
from pathlib import Path

from glmtui.engine.api import ChatModel
from glmtui.engine.hardware.environment import prepare_environment
from glmtui.engine.model_info import LoadOptions, ServerSpec, Target
from glmtui.engine.progress import Progress, ProgressHook
from glmtui.errors import EngineError
from glmtui.language import _


def open_model(
    target: Target,
    options: LoadOptions = LoadOptions(),
    on_progress: ProgressHook = lambda progress: None,
    cancelled: threading.Event | None = None,
) -> ChatModel:
    """Returns a model that is ready to chat.

    Raises:
        LoadCancelled: `cancelled` was set before the model was ready.
        GlmtuiError: the model cannot be loaded, or the server does not answer.
    """
    if isinstance(target, ServerSpec):
        from glmtui.engine.remote import ServerModel

        return ServerModel.connect(target, cancelled)
    on_progress(Progress(_("loading")))
    prepare_environment()
    first_import = "torch" not in sys.modules
    _load_torch_library()
    try:
        from glmtui.engine.hardware.memory import is_out_of_memory, out_of_memory
        from glmtui.engine.loading.loader import load
    except ImportError as error:
        raise EngineError(
            _("The engine's libraries cannot be imported: {error}").format(error=error),
            _("Install glmtui again in a new environment. glmtui doctor shows details."),
        ) from error
    if first_import:
        # Objects of torch stay until exit. Frozen, they do not cost 80 ms in each collection.
        gc.freeze()
    try:
        return load(target, options, on_progress, cancelled)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory("cpu") from error  # the loader itself reports a full GPU


def _load_torch_library() -> None:
    """Loads torch's largest library without holding the interpreter lock.

    ``import torch`` holds the lock while it reads and links the library (0.16 s warm, more from a
    cold disk), so that other threads cannot echo keys; ``dlopen`` through ctypes does not. If the
    library is not found here, the import loads it.
    """
    spec = importlib.util.find_spec("torch")
    for folder in (spec and spec.submodule_search_locations) or ():
        library = Path(folder, "lib", "libtorch_cpu.so")
        if library.exists():
            ctypes.CDLL(None).dlopen(os.fsencode(library), os.RTLD_NOW)
