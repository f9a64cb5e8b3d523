"""The fault table in README.md names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_the_table_names_tests_that_are_there() -> None:
    rows = [line for line in (HERE / "README.md").read_text().splitlines() if line.startswith("| ")]
    for row in rows:
        named = re.findall(r"`([\w./]+)::(\w+)`", row)
        assert named or row.startswith("| fault"), row
        for file, test in named:
            assert f"def {test}(" in (HERE / file).read_text(), row
