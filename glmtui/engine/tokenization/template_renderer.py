"""TemplateRenderer: a checkpoint's chat template, rendered in a sandboxed process.

Jinja's sandbox keeps a template away from files and from Python's internals, but it limits neither
time nor memory: ``'a' * 10**10`` is one expression.
"""

from __future__ import annotations

import json
from typing import Any

from glmtui.engine.tokenization.sandbox.sandboxed_process import (
    LIMIT_EXCEEDED,
    ProcessEnded,
    SandboxedProcess,
)
from glmtui.errors import UnsupportedModel
from glmtui.language import _


class TemplateRenderer:
    """A Jinja template of unknown origin. Its process starts at once.

    Raises:
        UnsupportedModel: it has a syntax error.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._process: SandboxedProcess | None = None
        self._start()

    def render(self, variables: dict[str, Any]) -> str:
        """The rendered text.

        Args:
            variables: JSON values by name.

        Raises:
            UnsupportedModel: the template rejects them, fails, or needs too much time or memory.
        """
        process = self._process or self._start()
        error, text = self._request(process, variables)
        if error:
            raise UnsupportedModel(
                _("The model's chat template refused this conversation: {error}").format(
                    error=error
                )
            )
        return text

    def _start(self) -> SandboxedProcess:
        process = self._process = SandboxedProcess("template_process")
        error, _text = self._request(process, self._source)
        if error:
            raise UnsupportedModel(
                _("The model's chat template does not parse: {error}").format(error=error)
            )
        return process

    def _request(self, process: SandboxedProcess, content: object) -> tuple[str, str]:
        """The error, empty if there is none, and the text."""
        try:
            process.send({}, json.dumps(content).encode())
            reply, payload = process.receive()
        except ProcessEnded:
            self._process = None  # the next call starts another one
            return _(LIMIT_EXCEEDED), ""
        return reply.get("error", ""), payload.decode("utf-8", "surrogatepass")
