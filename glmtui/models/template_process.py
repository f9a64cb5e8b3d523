"""The process in which a chat template runs: Jinja in its sandbox, within limits of its own.

Reads a JSON object from each line of stdin and answers with one on stdout: first ``source``, then
the variables of each rendering. Knows no model.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import IO

from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from glmtui.models.process_limits import limit_memory, limit_time

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


def _environment() -> ImmutableSandboxedEnvironment:
    """What Hugging Face's templates expect to find."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.filters["tojson"] = lambda x, **options: json.dumps(
        x, ensure_ascii=False, **options
    )
    return environment


def _raise(message: str) -> None:
    raise TemplateError(message)


def _shortened(text: str) -> str:
    if len(text) > MOST_CHARACTERS:
        raise TemplateError(f"it makes a prompt of {len(text):,} characters")
    return text
