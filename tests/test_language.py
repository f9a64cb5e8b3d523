"""The interface in Chinese: every word, nothing else, and a layout that holds.

Catalogues are made by ``python -m tests.support.catalogue``.
"""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from babel.messages.catalog import Message
from babel.messages.mofile import read_mo
from rich.cells import cell_len

from glmtui import errors, language
from glmtui.commands import COMMANDS
from glmtui.language import LANGUAGES, N_, _, ngettext, set_language
from support import catalogue
from support.app_pilot import SERVER, folders, run_app
from support.fake_engine import FakeEngine

__all__ = ["folders"]

OTHERS = LANGUAGES[1:]


@pytest.fixture
def chinese() -> Iterator[None]:
    assert set_language("zh") == "zh"
    yield
    set_language("en")


def words(message: Message) -> list[str]:
    """A message's translations: one, or one for each plural."""
    return [message.string] if isinstance(message.string, str) else list(message.string)


def ids(message: Message) -> list[str]:
    return [message.id] if isinstance(message.id, str) else list(message.id)


def fields(text: str) -> set[tuple[str, str, str]]:
    """The placeholders of a text, with their formats."""
    return {
        (name, spec or "", conversion or "")
        for _text, name, spec, conversion in string.Formatter().parse(text)
        if name is not None
    }


@pytest.mark.parametrize("code", OTHERS)
def test_every_word_of_the_sources_is_translated_and_no_other(code: str) -> None:
    wanted = {tuple(ids(m)) for m in catalogue.template() if m.id}
    there = catalogue.load(code)
    assert {tuple(ids(m)) for m in there if m.id} == wanted, "run python -m tests.support.catalogue"
    for message in there:
        assert all(words(message)), f"untranslated: {message.id}"
        assert not message.fuzzy, f"fuzzy: {message.id}"


@pytest.mark.parametrize("code", OTHERS)
def test_placeholders_and_commands_are_those_of_the_original(code: str) -> None:
    for message in catalogue.load(code):
        if message.id:
            for said in words(message):
                assert fields(said) <= fields(ids(message)[-1]), message.id
                for word in ("/keep", "/quant", "/clear", "/fork", "/export", "F1", "Esc"):
                    assert (word in said) == (word in ids(message)[-1]), message.id
                if len(ids(message)) == 1:
                    assert fields(said) == fields(message.id), message.id


@pytest.mark.parametrize("code", OTHERS)
def test_what_is_compiled_is_what_is_written(code: str) -> None:
    with catalogue.path(code).with_suffix(".mo").open("rb") as file:
        compiled = read_mo(file)
    written = {tuple(ids(m)): words(m) for m in catalogue.load(code) if m.id}
    assert {tuple(ids(m)): words(m) for m in compiled if m.id} == written


def test_babel_finds_every_call() -> None:
    """A call inside an f-string is found by some Pythons and not by others."""
    known = {text for message in catalogue.template() for text in ids(message)}
    for path in language.LOCALE_FOLDER.parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id not in ("_", "N_", "ngettext"):
                    continue
                for text in node.args:
                    if isinstance(text, ast.Constant) and isinstance(text.value, str):
                        assert text.value in known, f"{path.name}: {text.value!r}"
                    assert not isinstance(text, ast.JoinedStr), f"{path.name}: an f-string"
            if isinstance(node, ast.JoinedStr):
                inner = [n for n in ast.walk(node) if isinstance(n, ast.Call)]
                called = {n.func.id for n in inner if isinstance(n.func, ast.Name)}
                assert not called & {"_", "ngettext"}, f"{path.name}:{node.lineno}"


ERRORS = {name for name, kind in vars(errors).items() if isinstance(kind, type)}


def untranslated(node: ast.expr) -> bool:
    """Whether an argument of an error is words that are the same in every language."""
    if isinstance(node, ast.IfExp):
        return untranslated(node.body) or untranslated(node.orelse)
    if isinstance(node, ast.JoinedStr):
        parts = [part.value for part in node.values if isinstance(part, ast.Constant)]
        return re.search("[a-z]{2}", "".join(map(str, parts))) is not None
    return isinstance(node, ast.Constant) and bool(node.value)


def test_an_error_is_said_in_the_language_that_is_spoken() -> None:
    for path in language.LOCALE_FOLDER.parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ERRORS:
                said = [ast.unparse(word) for word in node.args[:2] if untranslated(word)]
                assert not said, f"{path.name}:{node.lineno}"


@pytest.mark.parametrize(
    ("asked", "environ", "spoken"),
    [
        ("zh", {}, "zh"),
        ("en", {"LC_ALL": "zh_CN.UTF-8"}, "en"),
        ("auto", {"LC_ALL": "zh_CN.UTF-8"}, "zh"),
        ("auto", {"LC_ALL": "", "LC_MESSAGES": "zh_TW", "LANG": "en_US.UTF-8"}, "zh"),
        ("auto", {"LANG": "de_DE.UTF-8"}, "en"),
        ("auto", {"LANG": "C"}, "en"),
    ],
)
def test_which_language_is_spoken(
    monkeypatch: pytest.MonkeyPatch, asked: str, environ: dict[str, str], spoken: str
) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert set_language(asked) == spoken
    assert _("Quit") == ("退出" if spoken == "zh" else "Quit")
    set_language("en")


@pytest.mark.usefixtures("chinese")
def test_a_plural_in_a_language_that_has_none() -> None:
    text = "{count:,} new line below, {key}", "{count:,} new lines below, {key}"
    assert ngettext(*text, 1) == ngettext(*text, 5) == "下方有 {count:,} 行新内容，按 {key} 查看"
    assert N_("Quit") == "Quit"
    assert _("") == ""


# ---- the app, at 80x24


def whole(driver: Any) -> list[str]:
    """The lines of the screen, each of the screen's width."""
    lines: list[str] = driver.screen_text().split("\n")
    assert {cell_len(line) for line in lines} == {driver.app.size.width}
    return lines


@pytest.mark.usefixtures("chinese")
async def test_the_screens_hold_in_chinese(folders: Path) -> None:
    def prepare(engine: FakeEngine) -> None:
        engine.model = replace(
            engine.model, device="cpu", weight_bytes=10**9, kv_bytes_per_token=10**6
        )

    async with run_app(SERVER, engine=prepare) as driver:
        await driver.wait_for_text("F1 帮助   F2 设置   F4 模型   Ctrl+O 历史对话")
        await driver.wait_for_text("输入问题，或输入 / 使用命令")
        await driver.ask("你好")
        whole(driver)
        assert driver.status_line().startswith(" 就绪，")
        await driver.pilot.press("up")
        await driver.wait_for_text("c 复制")
        whole(driver)
        await driver.pilot.press("escape", "f1")
        await driver.wait_for_text("按键与命令")
        whole(driver)
        await driver.pilot.press("escape", "f2")
        await driver.wait_for_text("回复的最大长度，以 token 计。")
        for line in ("temperature", "max_new_tokens", "system_prompt"):
            await driver.wait_for_text(line)
        whole(driver)
        await driver.pilot.press("f2", "f3")
        await driver.wait_for_text("上一条回复")
        await driver.wait_for_text("当前 KV 缓存")
        whole(driver)
        await driver.pilot.press("escape", "ctrl+o")
        await driver.wait_for_text("Enter 打开   Ctrl+R 标题")
        whole(driver)
        await driver.pilot.press("escape", "/")
        await driver.wait_for_text("/stop")
        whole(driver)
        await driver.pilot.press("backspace", "ctrl+p")
        await driver.wait_for_text("查找命令")
        whole(driver)


@pytest.mark.usefixtures("chinese")
def test_a_help_line_fits_where_it_is_shown() -> None:
    for command in COMMANDS:
        assert cell_len(_(command.help)) <= 76, command.action
        assert cell_len(_(command.title)) <= 20, command.action
