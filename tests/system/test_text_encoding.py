"""Piped and attached text in other encodings: decoded or refused."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from glmtui.cli.ask import read_question
from glmtui.errors import CorruptConversation, UsageError
from glmtui.store import read_file
from glmtui.system.text_encoding import UnknownEncoding, decode_text
from glmtui.ui.prompt.attachments import find_attachment, read_attachment

GBK = {"LANG": "zh_CN.GBK"}
LATIN = {"LC_ALL": "de_DE.ISO-8859-1", "LANG": "zh_CN.GBK"}


@pytest.mark.parametrize(
    ("data", "environ", "text"),
    [
        ("你好".encode(), {}, "你好"),
        ("你好".encode("utf-8-sig"), {}, "你好"),
        ("你好".encode(), LATIN, "你好"),  # text that is valid UTF-8 is hardly ever anything else
        ("你好\r\n".encode("utf-16"), {}, "你好\r\n"),
        (b"\xfe\xff" + "你好".encode("utf-16-be"), GBK, "你好"),
        ("你好".encode("utf-32"), {}, "你好"),
        ("你好".encode("gbk"), GBK, "你好"),
        ("镕㐀".encode("gb18030"), {"LC_CTYPE": "zh_CN.GB2312"}, "镕㐀"),
        ("你好".encode("big5"), {"LANG": "zh_TW.Big5"}, "你好"),
        ("こんにちは".encode("euc-jp"), {"LANG": "ja_JP.eucJP"}, "こんにちは"),
        ("café".encode("latin-1"), LATIN, "café"),
        ("“café” 5 €".encode("cp1252"), LATIN, "“café” 5 €"),
        ("5 €".encode("iso8859-15"), {"LANG": "fr_FR.ISO-8859-15@euro"}, "5 €"),
        (b"", {}, ""),
    ],
)
def test_a_mark_or_the_locale_tells(data: bytes, environ: dict[str, str], text: str) -> None:
    assert decode_text(data, environ) == text


@pytest.mark.parametrize(
    ("data", "environ"),
    [
        ("你好".encode("gbk"), {}),
        ("你好".encode("gbk"), {"LANG": "C.UTF-8", "LC_ALL": "no_such.thing"}),
        ("café".encode("latin-1"), {"LANG": "de_DE.UTF-8"}),
        ("café".encode("latin-1"), GBK),
        ("hello".encode("utf-16-le"), {}),  # no byte order mark: valid UTF-8 with NULs
        ("hello".encode("utf-16-le"), LATIN),
        (b"\xff\xfeh", {}),  # half a character
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", LATIN),
        (bytes(range(256)), LATIN),
        (b"\xff\xd8\xff\xe0", {"LANG": "x.hex"}),  # a codec that does not decode text
    ],
)
def test_what_nothing_tells_of_is_refused(data: bytes, environ: dict[str, str]) -> None:
    with pytest.raises(UnknownEncoding):
        decode_text(data, environ)


class Pipe(io.TextIOWrapper):
    def isatty(self) -> bool:
        return False


def piped(monkeypatch: pytest.MonkeyPatch, data: bytes) -> str:
    monkeypatch.setattr(sys, "stdin", Pipe(io.BytesIO(data), "utf-8"))
    return read_question(["What?"])


@pytest.mark.parametrize(
    ("data", "locale"),
    [("你好".encode("utf-16"), "C.UTF-8"), ("你好".encode("gbk"), "zh_CN.GBK")],
)
def test_what_is_piped_in_is_decoded(
    monkeypatch: pytest.MonkeyPatch, data: bytes, locale: str
) -> None:
    monkeypatch.setenv("LC_ALL", locale)
    assert piped(monkeypatch, data) == "What?\n\n你好"


@pytest.mark.parametrize("data", ["你好".encode("gbk"), "café".encode("latin-1"), b"a\0b"])
def test_what_is_piped_in_is_never_rubbish(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    with pytest.raises(UsageError, match="The input from the pipe is not text") as raised:
        piped(monkeypatch, data)
    assert "iconv" in raised.value.hint


@pytest.mark.parametrize("how", ["argument", "pipe"])
def test_the_program_refuses_it(how: str) -> None:
    words = "你好".encode("gbk")
    ask = [sys.executable, "-m", "glmtui", "ask"]
    ended = subprocess.run(
        [*ask, words] if how == "argument" else ask,
        input=b"" if how == "argument" else words,
        capture_output=True,
    )
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert b"is not text in UTF-8" in ended.stderr
    assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("data", "locale"),
    [("你好\r\n".encode("utf-16"), "C.UTF-8"), ("你好\n".encode("gbk"), "zh_CN.GBK")],
)
def test_an_attached_file_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, locale: str
) -> None:
    monkeypatch.setenv("LC_ALL", locale)
    (tmp_path / "notes.txt").write_bytes(data)
    assert read_attachment(str(tmp_path / "notes.txt")) == "你好\n"


@pytest.mark.parametrize(
    ("data", "wrong"),
    [("你好".encode("gbk"), "is not UTF-8 text"), ("hi".encode("utf-16-le"), "is not text")],
)
def test_an_attached_file_is_never_rubbish(tmp_path: Path, data: bytes, wrong: str) -> None:
    (tmp_path / "notes.txt").write_bytes(data)
    found = find_attachment(str(tmp_path / "notes.txt"))
    assert found is not None
    assert found.error == wrong


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "gb18030"])
def test_an_imported_file_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    rows = json.dumps([{"role": "user", "content": "你好"}], ensure_ascii=False)
    (tmp_path / "chat.json").write_bytes(rows.encode(encoding))
    if encoding == "gb18030":
        with pytest.raises(CorruptConversation, match="UTF-8"):
            read_file(tmp_path / "chat.json")
        monkeypatch.setenv("LC_ALL", "zh_CN.GB18030")
    assert read_file(tmp_path / "chat.json").path[0].content == "你好"
