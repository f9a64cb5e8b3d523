"""The process in which a chat template runs: Jinja in its sandbox, within limits of its own.

Reads a JSON object from each line of stdin and answers with one on stdout: first ``source``, then
the variables of each rendering. Knows no model.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime
from typing import IO, Any

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from glmtui.engine.tokenization.sandbox.process_limits import limit_memory, limit_time

MOST_SECONDS = 2  # of a core for one rendering; a thousandth is usual
MOST_BYTES = 256 << 20  # beyond what the process has when it begins
MOST_CHARACTERS = 32 << 20  # of a prompt


def main(questions: IO[str] = sys.stdin, answers: IO[str] = sys.stdout) -> None:
    """Answers until there are no more questions, or the system ends it for want of moderation."""
    limit_memory(MOST_BYTES)
    limit_time(MOST_SECONDS)
    template = None
    for line in questions:
        asked = json.loads(line)
        limit_time(MOST_SECONDS)
        try:
            if template is None:
                template, answer = _environment().from_string(asked["source"]), {}
            else:
                answer = {"text": _shortened(template.render(asked))}
        except MemoryError:
            answer = {"error": f"it takes more than {MOST_BYTES >> 20} MB"}
        except Exception as error:  # whatever a stranger's program may raise
            answer = {"error": str(error)[:300] or type(error).__name__}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class GenerationBlock(Extension):
    """``{% generation %}`` marks what the assistant writes, for training; the text is its body.

    A call block, as in transformers: what is set inside is not seen outside.
    """

    tags = {"generation"}  # noqa: RUF012  so it is declared there

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


def _strftime_now(format: str) -> str:  # noqa: A002  templates may give it by name
    return datetime.now().strftime(format)


def _tojson(
    x: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """In place of Jinja's own filter, which escapes for HTML and takes no such arguments."""
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> None:
    raise TemplateError(message)


def _shortened(text: str) -> str:
    if len(text) > MOST_CHARACTERS:
        raise TemplateError(f"it makes a prompt of {len(text):,} characters")
    return text
