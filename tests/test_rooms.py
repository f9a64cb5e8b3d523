"""Folders are rooms: who may import whom, what an import loads, and documents that follow the code.

`ROOMS` lists the rooms from the ground up. A module imports from its own room and from those listed
before it; imports for type checkers count. No modules of a room import each other in a circle.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from glmtui.commands import markdown_table
from glmtui.config.example import example_toml

ROOT = Path(__file__).parents[1]

ROOMS = (
    "language",
    "sanitize",
    "system",
    "net",
    "errors",
    "logs",
    "chat",
    "commands",
    "store",
    "engine.progress",
    "engine.model_info",
    "engine.api",
    "engine.hardware",
    "engine.catalog",
    "engine.tokenization",
    "engine.nn",
    "engine.checkpoint",
    "engine.pull",
    "engine.models",
    "engine.runtime",
    "engine.loading",
    "engine.compatibility",
    "engine.convert",
    "engine.remote",
    "engine.open_model",
    "engine.thread",
    "engine.bench",
    "engine",
    "config",
    "tools",
    "ui.terminal",
    "ui.widgets",
    "ui.markdown",
    "ui.transcript",
    "ui.session",
    "ui.prompt",
    "ui.dialogs",
    "ui.panels",
    "ui.chat_commands",
    "ui.chat",
    "ui.plain",
    "ui.app",
    "ui.launch",
    "ui",
    "cli",
    "__main__",
)
TORCH = {"torch", "transformers", "numpy", "safetensors", "tokenizers", "sentencepiece", "tiktoken"}
TORCH_ROOMS = {
    *("engine.nn", "engine.checkpoint", "engine.models", "engine.runtime", "engine.loading"),
    *("engine.compatibility", "engine.convert", "engine.bench"),
}
# parts of rooms without torch that import it, or a tokenizer library in a process of its own
TORCH_MODULES = ("engine.hardware.memory", "engine.tokenization.sandbox.")
SCREEN = {"textual", "rich"}
SCREEN_ROOMS = ("ui", "cli")


def module_name(path: Path) -> str:
    """The dotted name of a module, without `glmtui.`."""
    parts = path.relative_to(ROOT / "glmtui").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted((ROOT / "glmtui").rglob("*.py"))}
del MODULES[""]


def room_of(module: str) -> str | None:
    """The room of a module: the longest name in `ROOMS` that it is, or that it lies in."""
    fitting = [room for room in ROOMS if f"{module}.".startswith(f"{room}.")]
    return max(fitting, key=len, default=None)


def imports_of(module: str) -> Iterator[tuple[str, bool]]:
    """Everything that a module imports, wherever in it, and whether that is part of glmtui."""
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            top, _, rest = (node.module or "").partition(".")
            if top != "glmtui":
                yield top, False
                continue
            for alias in node.names:
                inner = f"{rest}.{alias.name}".strip(".")
                yield (inner if inner in MODULES else rest), True


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_from_its_own_room_and_those_before_it(module: str) -> None:
    room = room_of(module)
    assert room is not None, f"{module} lies in no room: add its folder to ROOMS"
    for imported, ours in imports_of(module):
        if ours and (other := room_of(imported)):
            message = f"{module} (room {room}) imports {imported} (room {other})"
            assert ROOMS.index(other) <= ROOMS.index(room), message


@pytest.mark.parametrize("module", MODULES)
def test_torch_and_textual_stay_in_their_rooms(module: str) -> None:
    others = {imported for imported, ours in imports_of(module) if not ours}
    if room_of(module) not in TORCH_ROOMS and not module.startswith(TORCH_MODULES):
        assert not others & TORCH
    if module.partition(".")[0] not in SCREEN_ROOMS:
        assert not others & SCREEN


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {m: {name for name, ours in imports_of(m) if ours} - {m, ""} for m in MODULES}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_the_longest_files(capsys: pytest.CaptureFixture[str]) -> None:
    """Prints them: a long file is a question, no fault. `pytest -k longest_files -s` shows them."""
    lines = {m: len(path.read_text("utf-8").splitlines()) for m, path in MODULES.items()}
    longest = sorted(lines, key=lambda module: -lines[module])[:10]
    print("\n".join(f"{lines[module]:5} {module}" for module in longest))
    assert capsys.readouterr().out.count("\n") == 10


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import glmtui", TORCH | SCREEN),
        ("import glmtui.cli.main", TORCH | SCREEN | {"httpx", "huggingface_hub"}),
        ("import glmtui.ui.launch, glmtui.ui.chat.screen", TORCH | {"huggingface_hub", "httpx"}),
        ("import glmtui.engine.thread", TORCH | SCREEN),
        ("import glmtui.engine, glmtui.engine.catalog.resolver", TORCH | SCREEN),
        ("import glmtui.cli.bench, glmtui.engine.bench", TORCH | SCREEN),
        ("import glmtui.store", TORCH | SCREEN | {"httpx"}),
        (
            "import glmtui.engine.runtime.model_runner, glmtui.engine.loading.loader",
            {"textual", "transformers"},
        ),
    ],
)
def test_importing_one_room_leaves_the_others_out(statement: str, absent: set[str]) -> None:
    assert not loaded_by(statement) & absent


def test_the_example_config_is_what_the_settings_say() -> None:
    assert (ROOT / "config.example.toml").read_text("utf-8") == example_toml()


def test_the_readmes_command_table_is_what_the_commands_say() -> None:
    assert markdown_table() in (ROOT / "README.md").read_text("utf-8")
