"""What tests share: fakes, small models, emulated terminals, and where things lie."""

from pathlib import Path

TESTS = Path(__file__).parents[1]
