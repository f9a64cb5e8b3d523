"""llama.cpp, by way of llama-cpp-python, on a GGUF file."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

from glmtui.engine.bench.clock import time_reply
from glmtui.engine.bench.plan import BenchTarget, EngineStart, TimedReply
from glmtui.engine.hardware.host_memory import peak_resident
from glmtui.errors import EngineError
from glmtui.language import _


class LlamaCppPeer:
    """A model in llama.cpp, every layer on the GPU if it was built for one and may use it."""

    def __init__(self, target: BenchTarget) -> None:
        import llama_cpp

        assert target.gguf is not None, "the command line asks for it"
        on_gpu = target.options.device != "cpu" and llama_cpp.llama_supports_gpu_offload()
        started = time.perf_counter()
        try:
            self._llama = llama_cpp.Llama(
                model_path=str(target.gguf),
                n_ctx=target.context_length,
                n_threads=target.threads,
                n_threads_batch=target.threads,
                n_gpu_layers=-1 if on_gpu else 0,
                verbose=False,
            )
        except ValueError as error:
            raise EngineError(
                _("llama.cpp cannot load {path}: {error}.").format(path=target.gguf, error=error),
                _("Give it another --gguf file."),
            ) from error
        self.start = EngineStart(
            engine="llama-cpp",
            device="gpu" if on_gpu else "cpu",
            dtype="",
            quant=target.gguf.name,
            version=f"llama-cpp-python {llama_cpp.__version__}",
            reuses=True,
            load_seconds=time.perf_counter() - started,
            context_length=self._llama.n_ctx(),
            vocabulary=(0, self._llama.n_vocab()),
        )

    def generate(self, prompt: Sequence[int], tokens: int) -> TimedReply:
        reply = self._llama.generate(list(prompt), temp=0.0, repeat_penalty=1.0)
        return time_reply(itertools.islice(reply, tokens))

    def peak_memory(self) -> int | None:
        return None if self.start.device == "gpu" else peak_resident()
