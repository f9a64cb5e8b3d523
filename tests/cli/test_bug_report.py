"""doctor --bundle: the report contains logs and settings, and no private data."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from glmtui.chat import Conversation, Message
from glmtui.cli.bug_report import redact
from glmtui.cli.main import main
from glmtui.store import Store


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at /home/mei/x.py", "at ~/x.py"),
        ("Authorization: Bearer abcdefgh12345678", "Authorization: [key]"),
        ("token hf_abcdefgh12345678 refused", "token [key] refused"),
        ('api_key = "short-one"', "[key]"),
        ("http://gpu1.corp.example:8000/v1 refused", "http://[host]/v1 refused"),
        ("https://me:pass@hub.example/x", "https://[host]/x"),
        ("10.1.2.3 and mei@corp.example", "[address] and [address]"),
        ("LAB says value-of-lab-key", "LAB says [key]"),
        ("torch 2.13.0, 12 tokens, CUDA 12.8", "torch 2.13.0, 12 tokens, CUDA 12.8"),
    ],
)
def test_private_data_is_replaced(monkeypatch: pytest.MonkeyPatch, text: str, shown: str) -> None:
    monkeypatch.setenv("HOME", "/home/mei")
    assert shown in redact(text, {"LAB_KEY": "value-of-lab-key", "EMPTY_KEY": ""})


def test_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DATA", "CONFIG", "CACHE", "STATE"):
        monkeypatch.setenv(f"GLMTUI_{name}_DIR", str(tmp_path / name))
    monkeypatch.setenv("HF_TOKEN", "hf_secret4711")
    (tmp_path / "STATE").mkdir()
    (tmp_path / "STATE/crash.log").write_text("ZeroDivisionError with hf_secret4711\n")
    (tmp_path / "CONFIG").mkdir()
    (tmp_path / "CONFIG/config.toml").write_text('system_prompt = "my private words"\n')
    with Store(tmp_path / "DATA/conversations") as store:
        store.save(Conversation.new().add(Message("user", "my private question")))
    report = tmp_path / "report.txt"
    main(["doctor", "--bundle", str(report)])
    text = report.read_text()
    assert "ZeroDivisionError" in text
    assert "Python" in text
    assert "system_prompt" in text
    for private in ("private words", "private question", "4711"):
        assert private not in text
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    assert str(report) in capsys.readouterr().out
    assert main(["doctor", "--bundle", str(report)]) == 1  # nothing is overwritten
    assert report.read_text() == text
