"""Fuzzes one target with atheris, led by coverage: python tests/fuzz/run.py TARGET [SECONDS].

Needs ``pip install atheris`` beside glmtui and its test tools. Stops at the first input that
raises anything but a GlmtuiError, takes over a second of a core, or over 256 MB; the input is then
a file crash-… in the working folder. Inputs that led somewhere new are kept in ``.fuzz/TARGET``
for the next time. What is found goes into `test_targets.FOUND`.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

import atheris
import torch  # noqa: F401 - before the rest, for it is large and not ours to instrument

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
with atheris.instrument_imports(include=["glmtui", "tomli", "json"]):
    from fuzz_folder import clear
    from targets import TARGETS, meet

MOST_BYTES, MOST_SECONDS = 256 << 20, 1


def main() -> None:
    """Run the fuzzer, which ends the process."""
    name, seconds = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "600"
    target = TARGETS[name]
    corpus = Path(".fuzz", name)
    corpus.mkdir(parents=True, exist_ok=True)
    for seed, data in target.seeds().items():
        (corpus / seed).write_bytes(data)
    words = Path(".fuzz", f"{name}.dict")
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
    for data in target.seeds().values():  # so that late imports are done
        meet(target, data)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))

    def once(data: bytes) -> None:
        began = time.process_time()
        meet(target, data)
        assert time.process_time() - began < MOST_SECONDS

    flags = [f"-max_total_time={seconds}", f"-timeout={60 * MOST_SECONDS}", f"-dict={words}"]
    flags += ["-rss_limit_mb=0", "-max_len=65536", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], once)
    try:
        atheris.Fuzz()
    finally:
        clear()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    os.environ.setdefault("GLMTUI_CACHE_DIR", str(Path(".fuzz/cache").resolve()))
    main()
