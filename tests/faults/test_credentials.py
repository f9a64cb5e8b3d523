"""Passwords and keys in addresses are used, but neither shown nor stored.

Every place that prints, logs or stores an address is given one with a canary in it.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from glmtui import config, logs
from glmtui.chat import Conversation, Message
from glmtui.cli import bug_report
from glmtui.cli.main import main
from glmtui.config import Server, Settings
from glmtui.errors import GlmtuiError
from glmtui.store import Store
from glmtui.system import paths
from glmtui.ui import launch
from support.app_pilot import folders, run_app

pytestmark = pytest.mark.usefixtures(folders.__name__)

CANARY = "canary4711"
ADDRESS = f"http://user:{CANARY}@127.0.0.1:9/v1?api_key={CANARY}#{CANARY}"
SHOWN = "http://127.0.0.1:9/v1"
CONFIG = f"""
model = "{ADDRESS}"
[hub]
endpoint = "{ADDRESS}"
[servers.lab]
url = "{ADDRESS}"
"""
WRONG = f"""
[hub]
endpoint = "ftp://user:{CANARY}@127.0.0.1/"
[servers.lab]
url = "user:{CANARY}@127.0.0.1/v1"
[servers.other]
url = "http://user:{CANARY}@/v1 ?key={CANARY}"
"""


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Settings and a conversation of an earlier version. At the end, no file that was written
    meanwhile contains the canary."""
    monkeypatch.setenv("HF_ENDPOINT", ADDRESS)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    talk = Conversation.new(model="ADDRESS").add(Message("user", "hi"))
    talk = talk.add(Message("assistant", "ho", model="ADDRESS"))
    path = Store(paths.data_dir() / "conversations").save(talk)
    path.write_text(path.read_text().replace("ADDRESS", ADDRESS))
    settings = paths.config_dir() / "config.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text(CONFIG)
    yield path
    files = {file for file in tmp_path.rglob("*") if file.is_file()} - {path, settings}
    assert [file for file in files if CANARY.encode() in file.read_bytes()] == []


COMMANDS = {
    "models": ["models"],
    "list": ["list"],
    "config": ["config"],
    "doctor": ["doctor"],
    "bundle": ["doctor", "--bundle", "REPORT"],
    "export md": ["export", "ID"],
    "export json": ["export", "ID", "--format", "json"],
    "export toml": ["export", "ID", "--format", "toml"],
    "export to a file": ["export", "ID", "-o", "REPORT"],
    "pull": ["pull", "someone/tiny"],
    "pull an address": ["pull", ADDRESS],
    "verify": ["verify", ADDRESS],
    "ask": ["ask", "hi"],
    "ask a server": ["ask", "-m", "lab", "hi"],
    "ask what is none": ["ask", "-m", ADDRESS.replace("http", "htp"), "hi"],
    "ask in capitals": ["ask", "-m", ADDRESS.replace("http", "HTTP"), "hi"],
    "bench": ["bench"],
    "a port that is none": ["ask", "-m", ADDRESS.replace(":9/", ":99999999/"), "hi"],
    "a password with a slash": ["ask", "-m", ADDRESS.replace("user:", "user:/"), "hi"],
}

SILENT = {"config", "bench", "bundle", "export to a file", "pull an address"}
SILENT |= {"a password with a slash"}  # indistinguishable from a host and its path


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(
    old: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    names = {"ID": Store(old.parent).summaries()[0].id, "REPORT": str(tmp_path / "report")}
    main([names.get(word, word) for word in COMMANDS[command]])
    output = "".join(capsys.readouterr())
    assert CANARY not in output
    assert "unexpected" not in output
    if command not in SILENT:
        assert "127.0.0.1" in output


def test_settings_that_are_wrong(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(WRONG)
    for command in (["doctor"], ["models"]):
        main(["--config", str(file), *command])
        assert CANARY not in "".join(capsys.readouterr())
    _settings, problems = config.load_settings(file, {"GLMTUI_HUB_ENDPOINT": f"ws://{CANARY}@h/"})
    assert len(problems) == 4
    assert CANARY not in "".join(map(str, problems))
    file.unlink()


def test_errors_and_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"no way to {ADDRESS}, through socks5://{CANARY}@proxy:1"
    assert CANARY not in str(GlmtuiError(text, text))
    assert CANARY not in repr(GlmtuiError(text, text))
    assert CANARY not in str(logs.log_unexpected(ZeroDivisionError(text)))
    assert CANARY not in (paths.state_dir() / "crash.log").read_text()
    log = tmp_path / "log"
    with log.open("w") as file, logs.log_warnings_to(file.fileno()):
        logging.getLogger("httpx").warning("GET %s", ADDRESS)
    assert SHOWN in log.read_text()
    assert CANARY not in log.read_text()
    (paths.state_dir() / "old.log").write_text(f"{ADDRESS}\nhttp://u:p/{CANARY}@host/")
    bug_report.write_report(tmp_path / "report", [], Settings())
    assert CANARY not in (tmp_path / "report").read_text()
    (paths.state_dir() / "old.log").unlink()


async def test_the_app(old: Path) -> None:
    settings = Settings(model=ADDRESS, servers={"lab": Server(ADDRESS)})
    screens: list[str] = []

    async with run_app() as driver:
        driver.app.workspace.settings = settings
        driver.engine.load_gate.clear()
        driver.app.chat.models.load(ADDRESS)
        await driver.wait_until(lambda: driver.app.session.loading is not None)
        await driver.submit("while it loads")
        await driver.wait_for_text(SHOWN)
        screens.append(driver.screen_text())
        driver.engine.load_gate.set()
        await driver.wait_until(lambda: driver.app.session.has_replied)
        screens.append(driver.screen_text())
        driver.app.chat.models.pick()
        await driver.wait_for_text("lab: the server's first model")
        screens.append(driver.screen_text())
        driver.engine.load_error = GlmtuiError(f"no way to {ADDRESS}")
        await driver.pilot.press("escape")
        driver.app.chat.models.load(ADDRESS)
        await driver.wait_for_text("no way to")
        screens.append(driver.screen_text())
        saved = driver.store.load(driver.app.session.conversation.id)
    assert saved.model == SHOWN
    assert CANARY not in "".join(screens)


async def test_an_old_conversation_in_the_app(old: Path) -> None:
    talk = Store(old.parent).load("last")
    assert [talk.model, talk.path[-1].model] == [SHOWN, SHOWN]
    async with run_app(Settings(model=ADDRESS), conversation=talk) as driver:
        await driver.wait_for_text("ho")
        assert CANARY not in driver.screen_text()
        await driver.submit("/open")
        await driver.wait_for_text("hi")
        assert CANARY not in driver.screen_text()


def test_an_old_conversation_is_saved_without_it(old: Path) -> None:
    store = Store(old.parent)
    store.save(store.load("last").add(Message("user", "again")))
    store.close()
    assert [p for p in old.parent.iterdir() if p.is_file() and CANARY in p.read_text()] == []


def test_a_conversation_goes_on_with_the_whole_address(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[str | None] = []

    def run_plain(settings: Settings, *rest: object) -> int:
        models.append(settings.model)
        return 0

    monkeypatch.setattr(launch, "_run_plain", run_plain)
    for model in (ADDRESS, "other"):
        launch.run(Settings(model=model, plain=True), [], open_conversation="last")
    assert models == [ADDRESS, SHOWN]
