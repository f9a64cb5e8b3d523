"""open_model: the way to a model in this process or a server elsewhere. Imports torch only for one.

Whatever has to happen before torch is imported happens here.
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
    """A model that is ready to chat.

    Raises:
        LoadCancelled: `cancelled` was set before it was ready.
        GlmtuiError: it cannot be loaded, or the server does not answer.
    """
    if isinstance(target, ServerSpec):
        from glmtui.engine.remote import ServerModel

        return ServerModel.connect(target, cancelled)
    on_progress(Progress(_("loading")))
    prepare_environment()
    first = "torch" not in sys.modules
    _load_torch_library()
    try:
        from glmtui.engine.hardware.memory import is_out_of_memory, out_of_memory
        from glmtui.engine.loading.loader import load
    except ImportError as error:
        raise EngineError(
            _("The engine's libraries do not load: {error}").format(error=error),
            _("Install glmtui again in a fresh environment; glmtui doctor says more."),
        ) from error
    if first:  # torch stays: collecting need not look at it for 80 ms every time; a model does not
        gc.freeze()
    try:
        return load(target, options, on_progress, cancelled)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory("cpu") from error  # what a GPU lacks the loader has said


def _load_torch_library() -> None:
    """Loads torch's largest library before Python does, which would hold up all other threads.

    An import keeps the interpreter's lock while the library is read and linked (0.16 s warm, more
    from a cold disk), and no key echoes; a call of ``dlopen`` itself does not. Where this finds no
    library the import will.
    """
    spec = importlib.util.find_spec("torch")
    for folder in (spec and spec.submodule_search_locations) or ():
        library = Path(folder, "lib", "libtorch_cpu.so")
        if library.exists():
            ctypes.CDLL(None).dlopen(os.fsencode(library), os.RTLD_NOW)
