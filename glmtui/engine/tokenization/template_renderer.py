"""Template: a checkpoint's chat template, run where it can do no harm.

Jinja's sandbox keeps a template from files and from Python's insides, but not from running for
ever or filling the memory: ``'a' * 10**10`` is one expression. So it has a process of its own, with
limits (see `template_process`) and without our environment. Knows nothing of models and tokens.
"""

from __future__ import annotations

import json
import subprocess
import weakref
from typing import Any

from glmtui.engine.tokenization.sandbox.bounded_process import end, start
from glmtui.errors import UnsupportedModel
from glmtui.language import _


class TemplateRenderer:
    """A Jinja template of unknown origin.

    Raises:
        UnsupportedModel: it does not parse.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._process: subprocess.Popen[bytes] | None = None
        self._start()

    def render(self, variables: dict[str, Any]) -> str:
        """The text it makes of JSON values.

        Raises:
            UnsupportedModel: it refuses them, breaks, or takes too much time or memory.
        """
        process = self._process or self._start()
        answer = self._ask(process, variables)
        if "error" in answer:
            raise UnsupportedModel(
                _("The model's chat template refused this conversation: {error}").format(
                    error=answer["error"]
                )
            )
        return str(answer["text"])

    def _start(self) -> subprocess.Popen[bytes]:
        process = start("template_process")
        self._process = process
        weakref.finalize(self, end, process)
        answer = self._ask(process, {"source": self._source})
        if "error" in answer:
            raise UnsupportedModel(
                _("The model's chat template does not parse: {error}").format(error=answer["error"])
            )
        return process

    def _ask(self, process: subprocess.Popen[bytes], question: dict[str, Any]) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:  # it has gone
            line = b""
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        end(process)
        self._process = None  # the next one gets another
        return {"error": "it takes too much time or memory"}
