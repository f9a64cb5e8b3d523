"""llama.cpp, by way of llama-cpp-python, on a GGUF file."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

from glmtui.engine.bench.clock import timed
from glmtui.engine.bench.plan import StartInfo, Subject, Timed
from glmtui.engine.hardware.host_memory import peak_resident
from glmtui.errors import EngineError
from glmtui.language import _


class LlamaCppPeer:
    """A model in llama.cpp, every layer on the GPU if it was built for one and may use it."""

    def __init__(self, subject: Subject) -> None:
        import llama_cpp

        assert subject.gguf is not None, "the command line asks for it"
        on_gpu = subject.options.device != "cpu" and llama_cpp.llama_supports_gpu_offload()
        started = time.perf_counter()
        try:
            self._llama = llama_cpp.Llama(
                model_path=str(subject.gguf),
                n_ctx=subject.room,
                n_threads=subject.threads,
                n_threads_batch=subject.threads,
                n_gpu_layers=-1 if on_gpu else 0,
                verbose=False,
            )
        except ValueError as error:
            raise EngineError(
                _("llama.cpp cannot load {path}: {error}.").format(path=subject.gguf, error=error),
                _("Give it another --gguf file."),
            ) from error
        self.ready = StartInfo(
            engine="llama-cpp",
            device="gpu" if on_gpu else "cpu",
            dtype="",
            quant=subject.gguf.name,
            version=f"llama-cpp-python {llama_cpp.__version__}",
            reuses=True,
            load_seconds=time.perf_counter() - started,
            context_length=self._llama.n_ctx(),
            vocabulary=(0, self._llama.n_vocab()),
        )

    def generate(self, prompt: Sequence[int], tokens: int) -> Timed:
        reply = self._llama.generate(list(prompt), temp=0.0, repeat_penalty=1.0)
        return timed(itertools.islice(reply, tokens))

    def peak_memory(self) -> int | None:
        return None if self.ready.device == "gpu" else peak_resident()
