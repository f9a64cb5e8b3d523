"""What a bench found, as a table for people and as JSON for programs. Measures nothing."""

from __future__ import annotations

import dataclasses
import json
import platform
import textwrap
from collections.abc import Iterable

from glmtui import __version__
from glmtui.cli.tables import format_size, format_table
from glmtui.engine.bench import BenchResult, EngineResult, Measurement
from glmtui.engine.hardware.cpu import cpu_name
from glmtui.engine.hardware.machine import snapshot

NONE = "-"


def as_table(result: BenchResult, width: int) -> str:
    """What was measured, how, and what came out; lines of at most `width` cells, 80 if it has more.

    Ratios say how many times as fast glmtui is as the engine to their left.
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
            *_wrapped(_described(result), width),
            "",
            format_table(head, rows, width, elastic=0),
            "",
            *_wrapped(_explained(result), width),
        ]
    )


def _row(name: str, cells: Iterable[str]) -> list[str]:
    ours, *theirs = cells
    row = [name, ours, ""]
    for cell in theirs:
        row += [cell, ""]
    return row


def _work_row(result: BenchResult, work: Measurement) -> list[str]:
    row = [_named(result, work), _value(result.ours, work), _percent(result.share_of_copy(work))]
    for peer in result.engines[1:]:
        ratio = result.ratio(peer, work)
        row += [_value(peer, work), NONE if ratio is None else f"{ratio:.2f}x"]
    return row


def _named(result: BenchResult, work: Measurement) -> str:
    if work.is_rate:
        return f"{work.kind} at {work.at:,}, tok/s"
    if work.kind == "turn":
        return f"first token, turn {work.at}"
    return f"{result.prompt_tokens[work.at]:,} tokens anew"


def _value(engine: EngineResult, work: Measurement) -> str:
    median = engine.median(work)
    if median is None:
        return NONE
    if work.is_rate:
        return f"{median:,.0f}" if median >= 100 else f"{median:.1f}"
    return _seconds(median)


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def _size(nbytes: int | None) -> str:
    return NONE if nbytes is None else format_size(nbytes)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _described(result: BenchResult) -> list[str]:
    """What was measured, on what."""
    target = result.plan.targets[0]
    lines = [f"{target.name} on {_hardware(result)}; {target.threads} CPU threads"]
    for engine in result.engines:
        ready = engine.start
        held = ", ".join(filter(None, (ready.dtype, ready.quant)))
        lines.append(f"{ready.engine} {ready.version}: {held} on {ready.device}")
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


def _explained(result: BenchResult) -> list[str]:
    plan = result.plan
    rounds = "one round" if result.rounds == 1 else f"{result.rounds} rounds"
    if result.rounds < plan.rounds:
        rounds += f", which took too long for {plan.rounds}"
    lines = [
        f"Medians of {rounds}; engines in turn, each in its own process, after an untimed reply. "
        f"Replies are greedy, {plan.tokens} tokens long."
    ]
    if result.copy_bandwidth:
        lines.append(
            "OF COPY: bytes that decoding has to read (weights once a token, KV cache) per second, "
            "as a share of what a copy moves here: "
            f"{result.copy_bandwidth / 1e9:.1f} GB/s read and written."
        )
    if len(result.engines) > 1:
        lines.append("RATIO: how many times as fast glmtui is, median over the rounds.")
    return lines


def _wrapped(lines: Iterable[str], width: int) -> list[str]:
    return [part for line in lines for part in textwrap.wrap(line, width)]


def as_json(result: BenchResult) -> str:
    """One object: how it was measured, every sample, medians, ratios. Times in seconds."""
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
    found = {
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
        "engines": found,
    }
