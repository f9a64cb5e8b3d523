"""Template: a checkpoint's chat template, run where it can do no harm.

Jinja's sandbox keeps a template from files and from Python's insides, but not from running for
ever or filling the memory: ``'a' * 10**10`` is one expression. So it has a process of its own, with
limits (see `template_process`) and without our environment. Knows nothing of models and tokens.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import weakref
from typing import Any

from glmtui.errors import UnsupportedModel
from glmtui.language import _
from glmtui.programs import SAFE_FOLDER, import_path

PROGRAM = """
import sys
sys.path[:] = {path!r}
from glmtui.models import template_process
template_process.main()
"""
KEPT = ("LANG", "LC_ALL", "LC_TIME", "TZ")  # what a date depends on


class Template:
    """A Jinja template of unknown origin.

    Raises:
        UnsupportedModel: it does not parse.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._process: subprocess.Popen[str] | None = None
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

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", PROGRAM.format(path=import_path())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="ascii",
            env={name: os.environ[name] for name in KEPT if name in os.environ},
            cwd=SAFE_FOLDER,
            start_new_session=True,  # Ctrl+C is not meant for it
        )
        self._process = process
        weakref.finalize(self, _end, process)
        answer = self._ask(process, {"source": self._source})
        if "error" in answer:
            raise UnsupportedModel(
                _("The model's chat template does not parse: {error}").format(error=answer["error"])
            )
        return process

    def _ask(self, process: subprocess.Popen[str], question: dict[str, Any]) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:  # it has gone
            line = ""
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        _end(process)
        self._process = None  # the next one gets another
        return {"error": "it takes too much time or memory"}


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()
