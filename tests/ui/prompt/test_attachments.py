"""Attachments: which words are files, which files are accepted, what is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmtui.errors import UsageError
from glmtui.ui.prompt import attachments
from glmtui.ui.prompt.attachments import attachment_names, find_attachment, with_attachments
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
    (folder / "large.txt").write_text("x" * (attachments.MAX_BYTES + 1))
    (folder / "sub").mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_names_follow_an_at_sign_at_the_start_of_a_word() -> None:
    text = '@notes.md and (@x) me@example.com @"my file.py" @Makefile, @notes.md。'
    assert attachment_names(text) == ("notes.md", "my file.py", "Makefile")


def test_a_word_that_does_not_look_like_a_path_is_no_attachment() -> None:
    for word in ("property", "john", ",", "10:30", "app.route('/x')"):
        assert find_attachment(word) is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("notes.md", "notes.md 23 B"),
        ("Makefile", "Makefile 5 B"),
        ("missing.md", "missing.md not found"),
        ("~nobody-here/x", "~nobody-here/x not found"),
        ("latin.txt", "latin.txt is not UTF-8 text"),
        ("binary.bin", "binary.bin is not text"),
        ("sub", "sub is a folder"),
        ("large.txt", "large.txt is too large: 256.0 kB (limit 256.0 kB)"),
        ("/dev/zero", "/dev/zero cannot be read: not a regular file"),
    ],
)
def test_the_label_has_the_size_or_the_error(name: str, words: str) -> None:
    found = find_attachment(name)
    assert found is not None
    assert found.label == words


def test_a_file_is_sent_in_a_fence_longer_than_those_in_it() -> None:
    sent = with_attachments("Look at these", ("notes.md", "my file.py"))
    assert sent == (
        "Look at these\n\nnotes.md:\n````markdown\n# 笔记\n\n```\ncode\n```\n````"
        "\n\nmy file.py:\n```py\nprint('␛[31m')\n```"
    )
    with pytest.raises(UsageError):
        with_attachments("Look", ("missing.md",))


async def test_an_attached_file_is_shown_and_sent(folders: Path) -> None:
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


async def test_an_unusable_file_is_reported_and_nothing_is_sent(folders: Path) -> None:
    async with run_app() as driver:
        for _once in range(2):
            await driver.submit("see @binary.bin ")
            await driver.wait_for_text("binary.bin is not text")
            assert driver.app.session.conversation.messages == ()
        assert driver.app.chat.prompt.text == "see @binary.bin "


async def test_a_name_that_is_being_typed_is_not_reported_as_missing(folders: Path) -> None:
    async with run_app() as driver:
        await driver.pilot.press(*"@notes.md @notes.m")
        await driver.wait_for_text("notes.md 23 B")
        assert "not found" not in driver.screen_text()
        await driver.pilot.press("space")
        await driver.wait_for_text("notes.m not found")


async def test_a_missing_file_is_sent_as_text_on_the_second_enter(folders: Path) -> None:
    async with run_app() as driver:
        await driver.submit("why @functools.cache?")
        await driver.wait_for_text("Enter again sends it")
        assert driver.app.session.conversation.messages == ()
        await driver.pilot.press("enter")
        await driver.wait_until(lambda: driver.app.session.has_replied)
        assert driver.app.session.conversation.path[0].content == "why @functools.cache?"
