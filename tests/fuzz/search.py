"""Random search for inputs that break a property: python tests/fuzz/search.py SECONDS [TEST ...].

The suite itself tries the same examples in every run. This runs every property test (or those in
the files named, or pytest's ids) again and again with other examples, one test after another, until
the time is over or one fails. What it finds goes into an ``@example`` of that test.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]


def main(seconds: float, named: list[str]) -> int:
    """Return the exit code: 1 if a property failed; see pytest's output."""
    tests = named or [str(path) for path in files()]
    until, count = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        if not holds(tests[count % len(tests)]):
            return 1
        count += 1
    print(f"nothing found in {count} runs of {len(tests)} files")
    return 0


def files() -> list[Path]:
    """The test files with properties."""
    return sorted(p for p in TESTS.rglob("test_*.py") if re.search(r"^@given", p.read_text(), re.M))


def holds(test: str) -> bool:
    """Whether its properties hold for new examples: 2,000 each, unless the test sets a number."""
    options = ["-n", "0", "-q", "--timeout", "0", "-m", "hypothesis and not gpu"]
    options += ["--hypothesis-profile", "search"]
    run = subprocess.run([sys.executable, "-m", "pytest", *options, test])
    return run.returncode in (0, 5)  # 5: the file has none


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
