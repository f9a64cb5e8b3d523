"""Files named as @path: what counts as one, what is checked, what is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmtui.errors import UsageError
from glmtui.ui.prompt import attachments
from glmtui.ui.prompt.attachments import look, named, with_files
from support.app_pilot import folders, run_app

pytestmark = pytest.mark.usefixtures("here")
__all__ = ["folders"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder the program runs in, with some files."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "notes.md").write_text("# 笔记\n\n```\ncode\n```\n", "utf-8")
    (folder / "my file.py").write_text("print('\x1b[31m')")
    (folder / "Makefile").write_text("all:\n")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    (folder / "binary.bin").write_bytes(b"a\0b")
    (folder / "large.txt").write_text("x" * (attachments.MOST_BYTES + 1))
    (folder / "sub").mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_names_stand_after_an_at_sign_at_the_beginning_of_a_word() -> None:
    text = '@notes.md and (@x) me@example.com @"my file.py" @Makefile, @notes.md。'
    assert named(text) == ("notes.md", "my file.py", "Makefile")


def test_a_word_that_is_no_file_and_looks_like_none_is_a_word() -> None:
    for word in ("property", "john", ",", "10:30", "app.route('/x')"):
        assert look(word) is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("notes.md", "notes.md 23 B"),
        ("Makefile", "Makefile 5 B"),
        ("missing.md", "missing.md is not there"),
        ("~nobody-here/x", "~nobody-here/x is not there"),
        ("latin.txt", "latin.txt is not UTF-8 text"),
        ("binary.bin", "binary.bin is not text"),
        ("sub", "sub is a folder"),
        ("large.txt", "large.txt is 256.0 kB, over the limit of 256.0 kB"),
        ("/dev/zero", "/dev/zero cannot be read: not a regular file"),
    ],
)
def test_a_chip_says_the_size_or_what_is_wrong(name: str, words: str) -> None:
    found = look(name)
    assert found is not None
    assert found.words == words


def test_a_file_goes_along_in_a_fence_that_nothing_in_it_ends() -> None:
    sent = with_files("Look at these", ("notes.md", "my file.py"))
    assert sent == (
        "Look at these\n\nnotes.md:\n````markdown\n# 笔记\n\n```\ncode\n```\n````"
        "\n\nmy file.py:\n```py\nprint('␛[31m')\n```"
    )
    with pytest.raises(UsageError):
        with_files("Look", ("missing.md",))


async def test_a_file_is_shown_as_a_chip_and_sent(folders: Path) -> None:
    async with run_app() as driver:
        await driver.pilot.press(*"see @notes.md")
        await driver.wait_for_text("notes.md 23 B")
        await driver.pilot.press("escape", "enter")
        await driver.wait_until(lambda: driver.app.session.has_replied)
        said = driver.app.session.conversation.path[0].content
        assert said.startswith("see @notes.md\n\nnotes.md:\n````markdown\n# 笔记")
        assert "23 B" not in driver.screen_text()
        await driver.submit("/history")
        await driver.wait_for_text("see @notes.md")


async def test_a_file_that_is_no_good_is_said_and_nothing_is_sent(folders: Path) -> None:
    async with run_app() as driver:
        for _once in range(2):
            await driver.submit("see @binary.bin ")
            await driver.wait_for_text("binary.bin is not text")
            assert driver.app.session.conversation.messages == ()
        assert driver.app.chat.prompt.text == "see @binary.bin "


async def test_what_may_be_half_a_name_is_not_said_to_be_missing(folders: Path) -> None:
    async with run_app() as driver:
        await driver.pilot.press(*"@notes.md @notes.m")
        await driver.wait_for_text("notes.md 23 B")
        assert "is not there" not in driver.screen_text()
        await driver.pilot.press("space")
        await driver.wait_for_text("notes.m is not there")


async def test_what_is_not_there_is_sent_as_it_stands_when_asked_again(folders: Path) -> None:
    async with run_app() as driver:
        await driver.submit("why @functools.cache?")
        await driver.wait_for_text("Enter again sends it")
        assert driver.app.session.conversation.messages == ()
        await driver.pilot.press("enter")
        await driver.wait_until(lambda: driver.app.session.has_replied)
        assert driver.app.session.conversation.path[0].content == "why @functools.cache?"
