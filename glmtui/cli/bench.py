"""``glmtui bench``: its arguments, and what they ask to measure.

`glmtui.engine.bench` measures; `bench_report` formats the result.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from glmtui.errors import EngineError, ModelNotFound, UsageError
from glmtui.language import _

if TYPE_CHECKING:
    from glmtui.config import Settings
    from glmtui.engine.bench import BenchPlan, EngineName
    from glmtui.engine.model_info import ModelInfo

PEER_MODULES = {"transformers": "transformers", "llama-cpp": "llama_cpp"}
SYNTHETIC = ("chatglm-6b", "chatglm2-6b", "chatglm3-6b", "glm-4-9b", "smollm2")


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of the subcommand, other than settings."""
    parser.add_argument(
        "model", nargs="?", default=argparse.SUPPRESS, metavar="MODEL", help="same as -m"
    )
    parser.add_argument(
        "--against",
        action="append",
        choices=tuple(PEER_MODULES),
        default=[],
        help="compare with this engine; can be repeated",
    )
    parser.add_argument("--gguf", type=Path, metavar="FILE", help="the GGUF file for llama-cpp")
    parser.add_argument(
        "--synthetic",
        choices=SYNTHETIC,
        help="use random weights with the shapes of this model; no download needed",
    )
    parser.add_argument(
        "--rounds",
        type=_positive,
        default=3,
        metavar="N",
        help="number of rounds; fewer if they take long (default: 3)",
    )
    parser.add_argument(
        "--tokens",
        type=_reply_length,
        default=64,
        metavar="N",
        help="length of each reply (default: 64)",
    )
    parser.add_argument(
        "--threads",
        type=_positive,
        metavar="N",
        help="number of CPU threads (default: physical cores)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _positive(text: str) -> int:
    return _whole_number(text, minimum=1)


def _reply_length(text: str) -> int:
    return _whole_number(text, minimum=2)  # a rate needs two tokens


def _whole_number(text: str, minimum: int) -> int:
    number = int(text) if text.isascii() and text.isdecimal() else 0
    if number < minimum:
        raise argparse.ArgumentTypeError(
            f"must be a whole number, at least {minimum}, not {text!r}"
        )
    return number


def run_bench(args: Namespace, settings: Settings) -> str:
    """Measures and returns the report. Raises GlmtuiError."""
    from glmtui.cli import bench_report
    from glmtui.cli.progress import ProgressLine
    from glmtui.engine.bench import run_bench
    from glmtui.engine.hardware.environment import prepare_environment

    plan = build_plan(args, settings)
    prepare_environment()  # inherited by the processes that import torch
    with ProgressLine() as line:
        result = run_bench(plan, line.show)
    if args.json:
        return bench_report.as_json(result)
    return bench_report.as_table(result, shutil.get_terminal_size().columns)


def build_plan(args: Namespace, settings: Settings) -> BenchPlan:
    """What to measure according to the arguments.

    Raises:
        UsageError, ModelError, OutOfMemory: errors that are known before any process is started.
    """
    from glmtui.engine.bench import BenchPlan, BenchTarget, check_memory, synthetic_options
    from glmtui.engine.bench.plan import needed_context
    from glmtui.engine.hardware.cpu import physical_cores
    from glmtui.engine.hardware.machine import snapshot

    model = None if args.synthetic else _model(args, settings)
    if args.synthetic and "model" in args:
        raise UsageError(
            _("--synthetic {model} cannot be combined with a model.").format(model=args.synthetic),
            _("Use only one of them."),
        )
    options = settings.load_options
    if args.synthetic:
        options = synthetic_options(options)
    engines: list[EngineName] = ["glmtui", *dict.fromkeys(args.against)]
    for engine in engines[1:]:
        _check_peer(engine, args)
    targets = tuple(
        BenchTarget(
            engine=engine,
            model=model,
            synthetic=args.synthetic or "",
            options=options,
            threads=args.threads or physical_cores(),
            gguf=args.gguf,
            context_length=needed_context(args.tokens),
        )
        for engine in engines
    )
    if args.synthetic:
        check_memory(targets, snapshot())
    return BenchPlan(targets, args.rounds, args.tokens)


def _model(args: Namespace, settings: Settings) -> ModelInfo:
    from glmtui.engine.catalog import resolver
    from glmtui.engine.catalog.known_models import DEFAULT_MODEL
    from glmtui.engine.model_info import ServerSpec

    name = settings.model or DEFAULT_MODEL
    target = resolver.resolve(name, settings.server_specs(), settings.load_options.family)
    if isinstance(target, ServerSpec):
        raise UsageError(
            _("{name} is a server.").format(name=name),
            _("Only models on this machine can be measured."),
        )
    return target


def _check_peer(engine: EngineName, args: Namespace) -> None:
    """Raises UsageError, ModelNotFound or EngineError if the engine cannot be measured."""
    if importlib.util.find_spec(PEER_MODULES[engine]) is None:
        package = "llama-cpp-python" if engine == "llama-cpp" else engine
        raise EngineError(
            _("{engine} is not installed.").format(engine=engine),
            _("Install it with: pip install {package}").format(package=package),
        )
    if engine != "llama-cpp":
        return
    if args.gguf is None:
        raise UsageError(
            _("--against llama-cpp needs the model as a GGUF file."),
            _("Add --gguf FILE."),
        )
    if not args.gguf.is_file():
        raise ModelNotFound(
            _("File not found: {path}").format(path=args.gguf),
            _("--gguf needs an existing GGUF file."),
        )
