"""Presets: the built-in ones, the user's file, the panel and the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmtui.chat import SamplingParams
from glmtui.config import presets
from glmtui.errors import ConfigError, UsageError
from support.app_pilot import folders, run_app

__all__ = ["folders"]


def test_three_different_presets_are_built_in() -> None:
    assert list(presets.BUILT_IN) == ["precise", "balanced", "creative"]
    assert len(set(presets.BUILT_IN.values())) == 3


def test_a_saved_preset_is_loaded_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "presets.toml"
    mine, other = SamplingParams(temperature=0.5, seed=7), SamplingParams(top_k=3)
    presets.save_preset("mine", other, path)
    presets.save_preset("诗", other, path)
    presets.save_preset("mine", mine, path)
    found, problems = presets.load_presets(path)
    assert not problems
    assert found == {**presets.BUILT_IN, "mine": mine, "诗": other}
    assert presets.preset_name(mine, found) == "mine"
    assert presets.preset_name(SamplingParams(), found) == ""


@pytest.mark.parametrize("name", ["precise", "", "a b", "x" * 25, "../x"])
def test_invalid_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        presets.save_preset(name, SamplingParams(), tmp_path / "presets.toml")


def test_an_invalid_entry_is_reported_with_its_line_and_the_file_is_not_overwritten(
    tmp_path: Path,
) -> None:
    path = tmp_path / "presets.toml"
    path.write_text("loose = 1\n[mine]\ntop_k = 4\ntemperatur = 0.5\ntop_p = 7\n", "utf-8")
    found, problems = presets.load_presets(path)
    assert found["mine"] == SamplingParams(top_k=4)
    lines = [problem.message.removeprefix(f"{path}, line ") for problem in problems]
    assert [line.partition(":")[0] for line in lines] == ["1", "4", "5"]
    assert problems[1].hint == "Did you mean sampling.temperature?"
    with pytest.raises(ConfigError):
        presets.save_preset("other", SamplingParams(), path)
    assert "loose" in path.read_text("utf-8")


async def test_the_command_and_the_panel_change_the_same_values(folders: Path) -> None:
    async with run_app(size=(120, 40)) as driver:
        await driver.submit("/preset precise")
        assert driver.app.session.conversation.params == presets.BUILT_IN["precise"]
        await driver.pilot.press("f2")
        panel = driver.app.chat.settings.panel
        assert panel is not None
        await driver.wait_until(lambda: panel.preset.field.value == "precise")
        await driver.pilot.press("shift+tab", *["backspace"] * 7, *"creative")
        assert driver.app.session.conversation.params == presets.BUILT_IN["creative"]
        await driver.wait_until(lambda: panel.rows[0].text == "1.1")
        await driver.pilot.press("escape")
        await driver.submit("/set temperature 0.3")
        await driver.submit("/preset save mine")
        await driver.pilot.press("f2")
        await driver.wait_for_text("precise, balanced, creative, mine")
        await driver.wait_until(lambda: panel.preset.field.value == "mine")
        await driver.pilot.press("f2")
        await driver.submit("/preset")
        await driver.wait_for_text("Current preset: mine")
        await driver.submit("/preset min")
        await driver.wait_for_text("There is no preset 'min'")
