"""The process in which a chat template runs: Jinja's sandbox, with limits of time and memory.

The payload of each request is JSON: first the source of the template, then the variables of each
rendering. The payload of a reply is the rendered text.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from glmtui.engine.tokenization.sandbox.resource_limits import limit_memory, limit_time
from glmtui.engine.tokenization.sandbox.sandboxed_process import read_frame, write_frame

MAX_SECONDS = 2  # of CPU time for one rendering; a thousandth is usual
MAX_BYTES = 256 << 20  # beyond what the process has at its start
MAX_CHARACTERS = 32 << 20  # of a prompt; its UTF-8 fits the payload of a frame


def main() -> None:
    """Replies until stdin ends, or until the system kills the process at a limit."""
    limit_memory(MAX_BYTES)
    limit_time(MAX_SECONDS)
    template = None
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        limit_time(MAX_SECONDS)
        reply: dict[str, Any] = {}
        payload = b""
        try:
            content = json.loads(frame[1])
            if template is None:
                template = _environment().from_string(content)
            else:
                text = _check_length(template.render(content))
                payload = text.encode("utf-8", "surrogatepass")
        except MemoryError:
            reply = {"error": f"it needs more than {MAX_BYTES >> 20} MB"}
        except Exception as error:  # a template can raise anything
            reply = {"error": str(error)[:300] or type(error).__name__}
        write_frame(sys.stdout.buffer, reply, payload)


class GenerationBlock(Extension):
    """``{% generation %}`` marks the assistant's text for training; here it is only its body.

    It is a call block, as in transformers: variables set inside are not visible outside.
    """

    tags = {"generation"}  # noqa: RUF012  declared like this in Extension

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


def _environment() -> ImmutableSandboxedEnvironment:
    """The environment of transformers 5, `_compile_jinja_template` in utils/chat_template_utils."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[GenerationBlock, "jinja2.ext.loopcontrols"],
    )
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _strftime_now
    environment.filters["tojson"] = _tojson
    return environment


def _strftime_now(format: str) -> str:  # noqa: A002  templates may pass it by name
    return datetime.now().strftime(format)


def _tojson(
    x: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Replaces Jinja's filter, which escapes for HTML and does not have these arguments."""
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> None:
    raise TemplateError(message)


def _check_length(text: str) -> str:
    if len(text) > MAX_CHARACTERS:
        raise TemplateError(f"it makes a prompt of {len(text):,} characters")
    return text
