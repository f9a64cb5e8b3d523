"""``glmtui bench``: what to measure, from the command line, and how the result is printed.

Knows arguments and settings. Measuring is `glmtui.engine.bench`, what it looks like `bench_report`.
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

MODULES = {"transformers": "transformers", "llama-cpp": "llama_cpp"}
SYNTHETIC = ("chatglm-6b", "chatglm2-6b", "chatglm3-6b", "glm-4-9b", "smollm2")


def add_arguments(parser: ArgumentParser) -> None:
    """What the command takes, beside settings."""
    parser.add_argument(
        "model", nargs="?", default=argparse.SUPPRESS, metavar="MODEL", help="instead of -m"
    )
    parser.add_argument(
        "--against",
        action="append",
        choices=tuple(MODULES),
        default=[],
        help="measure this engine too, in turn; may be repeated",
    )
    parser.add_argument("--gguf", type=Path, metavar="FILE", help="what llama-cpp is to read")
    parser.add_argument(
        "--synthetic",
        choices=SYNTHETIC,
        help="random weights of this model's size instead of a model; needs no download",
    )
    parser.add_argument(
        "--rounds",
        type=_count,
        default=3,
        metavar="N",
        help="medians are of N, fewer if they take long",
    )
    parser.add_argument(
        "--tokens", type=_reply, default=64, metavar="N", help="length of each reply"
    )
    parser.add_argument("--threads", type=_count, metavar="N", help="of the CPU, else its cores")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def _count(text: str) -> int:
    return _number(text, 1)


def _reply(text: str) -> int:
    return _number(text, 2)  # a rate needs two tokens


def _number(text: str, least: int) -> int:
    number = int(text) if text.isascii() and text.isdecimal() else 0
    if number < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
    return number


def run_bench(args: Namespace, settings: Settings) -> str:
    """Measures; returns what is to be printed. Raises GlmtuiError."""
    from glmtui.cli import bench_report
    from glmtui.cli.progress import ProgressLine
    from glmtui.engine.bench import run_bench
    from glmtui.engine.hardware.environment import prepare_environment

    plan = build_plan(args, settings)
    prepare_environment()  # for the processes that will import torch
    with ProgressLine() as line:
        result = run_bench(plan, line.show)
    if args.json:
        return bench_report.as_json(result)
    return bench_report.as_table(result, shutil.get_terminal_size().columns)


def build_plan(args: Namespace, settings: Settings) -> BenchPlan:
    """What the arguments ask for.

    Raises:
        UsageError, ModelError, OutOfMemory: it cannot be done, and no process need start to see it.
    """
    from glmtui.engine.bench import BenchPlan, BenchTarget, check_memory, synthetic_options
    from glmtui.engine.bench.plan import needed_context
    from glmtui.engine.hardware.cpu import physical_cores
    from glmtui.engine.hardware.machine import snapshot

    model = None if args.synthetic else _model(args, settings)
    if args.synthetic and "model" in args:
        raise UsageError(
            _("--synthetic {model} takes the place of a model").format(model=args.synthetic),
            _("Leave one of them out."),
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
    from glmtui.engine.catalog.registry import DEFAULT_MODEL
    from glmtui.engine.model_info import ServerSpec

    name = settings.model or DEFAULT_MODEL
    target = resolver.resolve(name, settings.server_specs(), settings.load_options.family)
    if isinstance(target, ServerSpec):
        raise UsageError(
            _("{name} is a server").format(name=name),
            _("Only models that run here can be measured."),
        )
    return target


def _check_peer(engine: EngineName, args: Namespace) -> None:
    """Raises UsageError or EngineError where it cannot be compared with."""
    if importlib.util.find_spec(MODULES[engine]) is None:
        package = "llama-cpp-python" if engine == "llama-cpp" else engine
        raise EngineError(
            _("{engine} is not installed here, so nothing can be measured against it.").format(
                engine=engine
            ),
            _("Install it with: pip install {package}").format(package=package),
        )
    if engine != "llama-cpp":
        return
    if args.gguf is None:
        raise UsageError(
            _("--against llama-cpp needs a GGUF file, which is all that llama.cpp reads"),
            _("Give it the same model with --gguf FILE."),
        )
    if not args.gguf.is_file():
        raise ModelNotFound(
            _("There is no file {path}.").format(path=args.gguf), _("--gguf names a GGUF file.")
        )
