"""The app as a program of its own, with a FakeEngine: Python source to be started."""

PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from support.fake_engine import FakeEngine
from glmtui.config import Settings
from glmtui.engine.hardware import machine
from glmtui.ui import launch

machine.snapshot = machine.Snapshot  # others use memory too, and the meter would say so

def start(emit):
    engine = FakeEngine(emit)
    {prepare}
    return engine

launch._start_engine = start
sys.exit(launch.run(Settings(model="http://fake.invalid/v1"), []))
"""
