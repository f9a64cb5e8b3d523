"""Picking a model: what fits is marked; a missing model is downloaded, then loaded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from glmtui.config import Server, Settings
from glmtui.engine.catalog.known_models import known_model
from glmtui.engine.hardware import machine
from glmtui.engine.hardware.gpu import Gpu
from glmtui.engine.hardware.host_memory import HostMemory
from glmtui.engine.hardware.machine import Snapshot
from glmtui.engine.model_info import ModelInfo
from glmtui.engine.progress import CancelFlag, Progress, ProgressHook
from glmtui.errors import DownloadError
from glmtui.ui.dialogs import model_picker
from glmtui.ui.dialogs.conversation_picker import format_age
from glmtui.ui.dialogs.model_picker import memory_fit, progress_text
from support.app_pilot import SERVER, folders, run_app
from support.fake_engine import FakeEngine

pytestmark = pytest.mark.usefixtures(folders.__name__)

GB = 10**9
SMALL = Snapshot((), HostMemory(8 * GB, 4 * GB, GB))
LARGE = Snapshot((Gpu(0, "H200", 140 * GB, 2 * GB, 138 * GB, None),), HostMemory(64 * GB, 50 * GB))
HERE = ModelInfo("smollm2", Path("/nowhere"), "llama", 8192, GB // 10, "int4 g32", "SmolLM2")


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "snapshot", lambda: SMALL)
    monkeypatch.setattr(model_picker, "snapshot", lambda: SMALL)


class FakePull:
    """What is to happen to a pull, and what did."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.cancelled: CancelFlag | None = None
        self.errors: list[DownloadError] = []
        self.names: list[str] = []


@pytest.fixture
def fake_pull(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePull]:
    """`pull` in the test's hands: its steps run when they are let go."""

    fake = FakePull()

    def pull(
        name: str, *, endpoint: str | None, on_progress: ProgressHook, cancelled: CancelFlag
    ) -> ModelInfo:
        fake.names.append(name)
        fake.cancelled = cancelled
        on_progress(Progress("downloading [red]model.gguf", 45, 100))
        fake.go.wait(60)
        if fake.errors:
            raise fake.errors.pop()
        return HERE

    monkeypatch.setattr("glmtui.engine.pull.pull", pull)
    yield fake
    fake.go.set()


def test_what_fits_depends_on_the_machine_and_on_how_it_is_held() -> None:
    whole = known_model("chatglm3-6b")
    assert whole is not None
    assert memory_fit(whole, LARGE, "auto") == (True, "12.5 GB download, fits")
    assert memory_fit(whole, SMALL, "auto") == (False, "needs 12.5 GB, 4.0 free")
    assert memory_fit(whole, SMALL, "none") == (False, "needs 12.5 GB, 4.0 free")
    assert memory_fit(whole, Snapshot((), HostMemory(16 * GB, 8 * GB)), "int4")[0]
    assert memory_fit(whole, Snapshot(), "auto") == (None, "needs 12.5 GB")


@pytest.mark.usefixtures(small_machine.__name__)
async def test_without_a_model_the_picker_opens_with_the_default_and_what_fits() -> None:
    servers = {"lab": Server("http://lab:8000/v1", "glm-4")}
    async with run_app(Settings(servers=servers), size=(120, 30)) as driver:
        await driver.wait_for_text("Models")
        lines = driver.screen_text().splitlines()
        assert any("SmolLM2" in line and "0.1 GB download" in line for line in lines)
        assert any("GLM-4-9B Chat " in line and "needs" in line for line in lines)
        assert any("lab: glm-4" in line and "http://lab:8000/v1" in line for line in lines)
        picker = driver.app.screen
        assert isinstance(picker, model_picker.ModelPicker)
        assert picker.list.highlighted == 0


@pytest.mark.usefixtures(small_machine.__name__)
async def test_enter_fetches_with_progress_then_loads_and_chats(fake_pull: FakePull) -> None:
    async with run_app(Settings()) as driver:
        await driver.wait_for_text("Models")
        await driver.pilot.press("enter")
        await driver.wait_for_text("downloading [red]model.gguf")
        await driver.wait_for_text("45%")
        fake_pull.go.set()
        await driver.wait_until(lambda: "ready" in driver.status_line())
        assert driver.engine.loads[0][0] == HERE
        assert fake_pull.names == ["smollm2"]
        await driver.ask("Go")
        await driver.wait_for_text("Hello there.")


@pytest.mark.usefixtures(small_machine.__name__)
async def test_escape_stops_fetching(fake_pull: FakePull) -> None:
    async with run_app(Settings()) as driver:
        await driver.wait_for_text("Models")
        await driver.pilot.press("enter")
        await driver.wait_for_text("45%")
        await driver.pilot.press("escape")
        await driver.wait_until(lambda: "Downloading" not in driver.screen_text())
        assert fake_pull.cancelled is not None
        assert fake_pull.cancelled.is_set()
        fake_pull.go.set()
        await driver.submit("Is anybody there?")
        await driver.wait_until(lambda: "no model, question waiting" in driver.status_line())
        assert driver.engine.loads == []


@pytest.mark.usefixtures(small_machine.__name__)
async def test_a_fetch_that_fails_says_why_and_can_be_tried_again(fake_pull: FakePull) -> None:
    fake_pull.errors.append(DownloadError("The index does not answer.", "Is there a network?"))
    fake_pull.go.set()
    async with run_app(Settings()) as driver:
        await driver.wait_for_text("Models")
        await driver.pilot.press("enter")
        await driver.wait_for_text(
            "The index does not answer. Is there a network? Enter tries again."
        )
        await driver.pilot.press("enter")
        await driver.wait_until(lambda: "ready" in driver.status_line())


@pytest.mark.usefixtures(small_machine.__name__)
async def test_something_else_can_be_typed_into_the_picker() -> None:
    async with run_app(Settings()) as driver:
        await driver.wait_for_text("Models")
        await driver.pilot.press(*"http://fake.invalid/v1", "enter")
        await driver.wait_until(lambda: "ready" in driver.status_line())


@pytest.mark.usefixtures(small_machine.__name__)
async def test_a_model_that_is_not_here_is_offered_not_fetched_unasked(fake_pull: FakePull) -> None:
    async with run_app(replace(SERVER, model=None)) as driver:
        await driver.wait_for_text("Models")
        await driver.pilot.press("escape")
        await driver.submit("/model glm-4-9b-chat")
        await driver.wait_for_text("Models")
        await driver.wait_for_text("is not on this machine")
        assert fake_pull.names == []


def test_progress_of_unknown_length_has_no_bar() -> None:
    assert progress_text(Progress("unpacking", 5, 0), 40).plain == "unpacking"
    text = progress_text(Progress("downloading", GB, 4 * GB), 40).plain
    assert text.endswith(" 25%  1.0/4.0 GB")
    assert len(text.splitlines()[1]) == 40


@pytest.mark.parametrize(
    ("passed", "text"),
    [
        (timedelta(seconds=5), "now"),
        (timedelta(minutes=5), "5 min"),
        (timedelta(hours=3), "3 h"),
        (timedelta(days=12), "12 d"),
        (timedelta(days=-1), "now"),
        (timedelta(days=400), "2024-10"),
    ],
)
def test_how_long_ago(passed: timedelta, text: str) -> None:
    now = datetime(2025, 11, 22, tzinfo=timezone.utc)
    assert format_age(now - passed, now) == text


async def test_the_empty_page_says_how_the_model_is_held() -> None:
    def original_checkpoint(engine: FakeEngine) -> None:
        engine.model = replace(engine.model, weight_bytes=12_345_000_000, saved_bytes=163_840_000)

    async with run_app(engine=original_checkpoint) as driver:
        await driver.wait_for_text(
            "fake · cpu · 2,048 tokens · 12.3 GB · 164 MB of image tokens left out"
        )
        assert "compatibility" not in driver.screen_text()


async def test_the_empty_page_says_when_transformers_runs_the_model() -> None:
    def elsewhere(engine: FakeEngine) -> None:
        engine.model = replace(engine.model, backend="compatibility")

    async with run_app(engine=elsewhere) as driver:
        await driver.wait_for_text("fake · cpu · 2,048 tokens · compatibility")
        assert "left out" not in driver.screen_text()
