"""The result of a benchmark as a table and as JSON."""

from __future__ import annotations

import dataclasses
import json
import platform
import textwrap
from collections.abc import Iterable

from glmtui import __version__
from glmtui.cli.text_tables import format_size, format_table
from glmtui.engine.bench import BenchResult, EngineResult, Measurement
from glmtui.engine.hardware.cpu import cpu_name
from glmtui.engine.hardware.machine import snapshot

MISSING = "-"  # a value that was not measured


def as_table(result: BenchResult, width: int) -> str:
    """A description, a table of the results and an explanation, at most 80 cells wide.

    A ratio above 1 means that glmtui is faster than the engine to its left.
    """
    width = min(width, 80)
    peers = result.engines[1:]
    head = ["", f" {result.ours.start.engine}", " OF COPY"]
    for peer in peers:
        head += [f" {peer.start.engine}", " RATIO"]
    rows = [
        _row("load", [_seconds(e.start.load_seconds) for e in result.engines]),
        _row("start to first token", [_seconds(e.start_seconds) for e in result.engines]),
        _row("peak memory", [_size(e.peak_memory) for e in result.engines]),
    ]
    rows += [_work_row(result, work) for work in result.measurements]
    return "\n".join(
        [
            *_wrap(_description(result), width),
            "",
            format_table(head, rows, width, elastic=0),
            "",
            *_wrap(_explanation(result), width),
        ]
    )


def _row(name: str, cells: Iterable[str]) -> list[str]:
    ours, *theirs = cells
    row = [name, ours, ""]
    for cell in theirs:
        row += [cell, ""]
    return row


def _work_row(result: BenchResult, work: Measurement) -> list[str]:
    row = [
        _work_name(result, work),
        _value(result.ours, work),
        _percent(result.share_of_copy(work)),
    ]
    for peer in result.engines[1:]:
        ratio = result.ratio(peer, work)
        row += [_value(peer, work), MISSING if ratio is None else f"{ratio:.2f}x"]
    return row


def _work_name(result: BenchResult, work: Measurement) -> str:
    if work.is_rate:
        return f"{work.kind} at {work.at:,}, tok/s"
    if work.kind == "turn":
        return f"first token, turn {work.at}"
    return f"first token, prompt of {result.prompt_tokens[work.at]:,}"


def _value(engine: EngineResult, work: Measurement) -> str:
    median = engine.median(work)
    if median is None:
        return MISSING
    if work.is_rate:
        return f"{median:,.0f}" if median >= 100 else f"{median:.1f}"
    return _seconds(median)


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def _size(nbytes: int | None) -> str:
    return MISSING if nbytes is None else format_size(nbytes)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _description(result: BenchResult) -> list[str]:
    """The model, the hardware and the engines."""
    target = result.plan.targets[0]
    lines = [f"{target.name} on {_hardware(result)}; {target.threads} CPU threads"]
    for engine in result.engines:
        ready = engine.start
        weights = ", ".join(filter(None, (ready.dtype, ready.quant)))
        lines.append(f"{ready.engine} {ready.version}: {weights} on {ready.device}")
    if result.load_average:
        first, last = result.load_average[0], result.load_average[-1]
        lines.append(f"load average {first:.1f} at the start, {last:.1f} at the end")
    return lines


def _hardware(result: BenchResult) -> str:
    device = result.ours.start.device
    for gpu in snapshot().gpus:
        if device == f"cuda:{gpu.index}":
            return f"{gpu.name}; {cpu_name() or 'unknown CPU'}"
    return cpu_name() or "unknown CPU"


def _explanation(result: BenchResult) -> list[str]:
    plan = result.plan
    rounds = "one round" if result.rounds == 1 else f"{result.rounds} rounds"
    if result.rounds < plan.rounds:
        rounds += f" (not {plan.rounds}, which would take too long)"
    lines = [
        f"Medians of {rounds}. The engines take turns, each in its own process, after one untimed "
        f"reply. Replies are greedy and {plan.tokens} tokens long."
    ]
    if result.copy_bandwidth:
        lines.append(
            "OF COPY: bytes that decoding must read per second (weights once per token, KV cache), "
            f"relative to the speed of a memory copy, {result.copy_bandwidth / 1e9:.1f} GB/s."
        )
    if len(result.engines) > 1:
        lines.append("RATIO: speed of glmtui relative to the other engine, median of the rounds.")
    return lines


def _wrap(lines: Iterable[str], width: int) -> list[str]:
    return [part for line in lines for part in textwrap.wrap(line, width)]


def as_json(result: BenchResult) -> str:
    """A JSON object with the setup, all samples, medians and ratios. Times are in seconds."""
    target = result.plan.targets[0]
    return json.dumps(
        {
            "glmtui": __version__,
            "model": target.name,
            "synthetic": bool(target.synthetic),
            "cpu": cpu_name(),
            "gpus": [gpu.name for gpu in snapshot().gpus],
            "platform": platform.platform(),
            "python": platform.python_version(),
            "threads": target.threads,
            "rounds": result.rounds,
            "tokens": result.plan.tokens,
            "load_average": result.load_average,
            "copy_bytes_per_second": result.copy_bandwidth,
            "copy_samples": result.copy_bandwidths,
            "engines": [_engine(engine) for engine in result.engines],
            "works": [_work(result, work) for work in result.measurements],
        },
        ensure_ascii=False,
    )


def _engine(engine: EngineResult) -> dict[str, object]:
    return dataclasses.asdict(engine.start) | {
        "start_seconds": engine.start_seconds,
        "warm_up_seconds": engine.warm_up_seconds,
        "peak_memory": engine.peak_memory,
    }


def _work(result: BenchResult, work: Measurement) -> dict[str, object]:
    engines = {
        engine.start.engine: {
            "median": engine.median(work),
            "samples": engine.samples[work],
            "ratio": None if engine is result.ours else result.ratio(engine, work),
        }
        for engine in result.engines
        if work in engine.samples
    }
    described: dict[str, object] = {"kind": work.kind, "at": work.at}
    if not work.is_rate:
        described["prompt_tokens"] = result.prompt_tokens[work.at]
    return described | {
        "unit": "tokens/s" if work.is_rate else "s",
        "bandwidth": result.bandwidth(work),
        "share_of_copy": result.share_of_copy(work),
        "engines": engines,
    }
