"""The rooms keep their walls: who imports whom, what is loaded when, how long a file may be.

A room is a module, or several that belong together. `ROOMS` lists them from the ground up; a room
may import those of lower levels and, inside itself, anything that makes no circle.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from glmtui.commands import markdown_table
from glmtui.config.example import example_toml

ROOT = Path(__file__).parents[1]
LINES = 400

# level by level: room -> its modules (a package stands for all that is in it)
ROOMS: tuple[dict[str, tuple[str, ...]], ...] = (
    {
        "language": ("language",),
        "paths": ("paths",),
        "programs": ("programs",),
        "sanitize": ("sanitize",),
        "terminfo": ("terminfo",),
        "text_encoding": ("text_encoding",),
    },
    {"addresses": ("addresses",)},
    {"errors": ("errors",), "end tokens": ("engine.end_tokens",)},
    {
        "chat": ("chat", "turns"),
        "commands": ("commands", "keys", "slash"),
        "device": ("engine.device", "engine.cgroup", "engine.instruction_sets"),
        "setting": ("setting",),
    },
    {"store": ("store",), "api": ("engine.api",), "http": ("engine.http_client", "engine.proxies")},
    {
        "catalog": (
            "engine.catalog",
            "engine.chat_template",
            "engine.config_check",
            "engine.config_rules",
            "engine.families",
            "engine.family_fields",
            "engine.folder",
            "engine.known",
            "engine.transformers_fields",
        ),
        "gguf": ("engine.gguf",),
        "server": ("engine.server", "engine.detached"),
        "logs": ("logs",),
    },
    {
        "config": ("config", "config_example", "presets", "toml_file"),
        "pull": ("engine.pull",),
        "opening": ("engine.opening",),
    },
    {
        "tensors": (
            "engine.cache",
            "engine.decoder",
            "engine.detokenizer",
            "engine.gptq",
            "engine.gpu_attention",
            "engine.gpu_capture",
            "engine.gpu_kernels",
            "engine.heap",
            "engine.layers",
            "engine.linear",
            "engine.native",
            "engine.no_memory",
            "engine.peak",
            "engine.processor",
            "engine.quant",
            "engine.sampling",
            "engine.tensor_file",
            "engine.weights",
        ),
        "tools": ("tools",),
    },
    {"models": ("models",)},
    {
        "generate": (
            "engine.caches",
            "engine.cuda_graph",
            "engine.generate",
            "engine.lookahead",
            "engine.overlap",
            "engine.pacing",
            "engine.prompt",
            "engine.token_stream",
        ),
        "placement": ("engine.placement",),
    },
    {
        "loader": (
            "engine.loader",
            "engine.placer",
            "engine.sizing",
            "engine.spread",
        ),
        "compatibility": (
            "engine.compatibility",
            "engine.compatibility_sizing",
            "engine.length_scaling",
            "engine.transformers_cache",
        ),
    },
    {
        "bench": ("engine.bench",),
        "prepare": ("engine.importance", "engine.prepare"),
        "slim": ("engine.slim", "engine.slim_check"),
        "thread": ("engine.thread", "engine"),
    },
    {"ui": ("ui",)},
    {
        "cli": (
            "cli",
            "bundle",
            "ask",
            "bench",
            "bench_report",
            "doctor",
            "listing",
            "progress_line",
            "remaking",
            "__main__",
        )
    },
)
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
# imports inside a function that lead up, each with its reason
LEAPS = {
    ("opening", "loader"): "torch is imported when a model is opened, and not for a server",
    ("opening", "tensors"): "what of torch's failures means no memory is known there",
}
TORCH = {"torch", "transformers", "numpy", "safetensors", "tokenizers", "sentencepiece", "tiktoken"}
SCREEN = {"textual", "rich"}
TORCH_ROOMS = {
    *("tensors", "models", "generate", "loader", "compatibility", "prepare", "slim", "bench"),
}
SCREEN_ROOMS = {"ui", "cli"}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT / "glmtui").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted((ROOT / "glmtui").rglob("*.py"))}


def room_of(module: str) -> str | None:
    """The room whose module, or package, this is or lies in; the longest name decides."""
    owned = {name: room for rooms in ROOMS for room, names in rooms.items() for name in names}
    fitting = [n for n in owned if module == n or (module.startswith(n + ".") and n != "engine")]
    return owned[max(fitting, key=len)] if fitting else None


def imports_of(module: str) -> tuple[set[str], set[str]]:
    """What a module imports of glmtui and of others; what only type checkers see is left out."""
    ours, others = set[str](), set[str]()

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                others.add(alias.name.partition(".")[0])
        if isinstance(node, ast.ImportFrom):
            top, _, rest = (node.module or "").partition(".")
            if top != "glmtui":
                others.add(top)
            else:
                for alias in node.names:
                    inner = f"{rest}.{alias.name}".strip(".")
                    ours.add(inner if inner in MODULES else rest)
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(ast.parse(MODULES[module].read_text("utf-8")))
    return ours - {module, ""}, others


@pytest.mark.parametrize("module", [m for m in MODULES if m not in ("", "models")])
def test_every_module_has_a_room_and_looks_only_down(module: str) -> None:
    room = room_of(module)
    assert room is not None, f"{module} belongs to no room: name it in ROOMS"
    ours, others = imports_of(module)
    for imported in ours:
        other = room_of(imported)
        if other is None or other == room or (room, other) in LEAPS:
            continue
        assert LEVEL[other] < LEVEL[room], f"{module} ({room}) imports {imported} ({other})"
    if room not in TORCH_ROOMS and not module.startswith("engine.gguf"):
        assert not others & TORCH, f"{module} imports {others & TORCH}"
    if room not in SCREEN_ROOMS:
        assert not others & SCREEN - {"rich"}, f"{module} imports {others & SCREEN}"


def test_no_two_modules_import_each_other() -> None:
    graph = {m: {i for i in imports_of(m)[0] if room_of(i) == room_of(m)} for m in MODULES}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


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
        ("import glmtui.cli.command_line", TORCH | SCREEN | {"httpx", "huggingface_hub"}),
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


@pytest.mark.parametrize(
    "path", sorted([*ROOT.glob("glmtui/**/*.py"), *ROOT.glob("tests/**/*.py")])
)
def test_no_file_is_longer_than_the_wall(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= LINES


def test_the_example_config_is_what_the_settings_say() -> None:
    assert (ROOT / "config.example.toml").read_text("utf-8") == example_toml()


def test_the_readmes_command_table_is_what_the_commands_say() -> None:
    assert markdown_table() in (ROOT / "README.md").read_text("utf-8")
