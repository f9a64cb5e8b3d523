"""Hostile text from models, files, names and servers: no control sequence reaches the terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from glmtui.chat import Conversation, Message
from glmtui.store import Store
from support.emulated_terminal import Start
from support.fake_server import Exchange, delta, serving
from support.hostile_text import ALL, ATTACKS, MARKUP, control_effects
from support.tiny_llama import llama_files, write_folder

LINK = "[https://bank.example/login](https://evil.example/phish)"


def environ(folder: Path) -> dict[str, str]:
    names = ("DATA", "CONFIG", "CACHE", "STATE")
    ours = {f"GLMTUI_{name}_DIR": str(folder / name.lower()) for name in names}
    return {**os.environ, "TERM": "xterm-256color", **ours}


def on_terminal(folder: Path, *argv: str) -> bytes:
    """What a command writes to a terminal."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "glmtui", *argv],
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
        env=environ(folder),
        cwd=folder,
    )
    os.close(slave)
    output = b""
    try:
        while data := os.read(master, 65536):
            output += data
    except OSError:  # EIO: its end
        pass
    os.close(master)
    process.wait(60)
    return output


def nasty_talk() -> Conversation:
    """Everything a person can be shown of a conversation, full of attacks."""
    talk = replace(Conversation.new(model=f"m{ALL}", system=ALL), title=f"Title {ALL} {MARKUP}")
    talk = talk.add(Message("user", f"Question {ALL} {MARKUP}"))
    reply = Message("assistant", f"Answer {ALL}", model=f"m{ALL}", finish_reason="error")
    return talk.add(replace(reply, error=f"failed {ALL} {MARKUP}"))


def nasty_server(exchange: Exchange) -> None:
    """A model whose name, words and errors are attacks."""
    if exchange.command == "GET":
        exchange.json({"object": "list", "data": [{"id": f"fake {ALL} {MARKUP}"}]})
    elif len(exchange.body["messages"]) > 2:
        exchange.json({"error": {"message": f"refused {ALL} {MARKUP}"}}, status=400)
    else:
        exchange.start()
        text = f"BEGIN {ALL} {MARKUP} {LINK} END"
        for n in range(0, len(text), 3):  # cut in the middle of every sequence
            exchange.event(delta(text[n : n + 3]))
        exchange.event(delta(finish="stop"))
        exchange.end()


@pytest.mark.parametrize("name", ATTACKS)
def test_each_attack_is_detected_by_the_check(name: str) -> None:
    assert control_effects(f"before {ATTACKS[name]} after".encode())


def test_the_app(glmtui: Start, tmp_path: Path) -> None:
    with Store(tmp_path / "data/conversations") as store:
        store.save(nasty_talk())
    with serving(nasty_server) as server:
        terminal = glmtui("-m", server.url)
        terminal.wait_for_text("ready")
        terminal.press(b"Hi\r")
        terminal.wait_for_text("END")
        seen = "\n".join(terminal.screen.display)
        assert "[bold red]loud[/]" in seen  # markup is text
        assert "evil.example/phish" in " ".join(seen.split())  # a link says where it leads
        terminal.press(b"Again\r")  # the server refuses: a notice
        terminal.wait_for_text("refused")
        terminal.press(b"/set temperature " + "\u202e9[/]".encode() + b"\r")  # a notification
        terminal.wait_for_text("temperature")
        terminal.press(b"\x0f")  # Ctrl+O: titles and models of saved files
        terminal.wait_for_text("Title")
        terminal.press(b"Title\r")
        terminal.wait_for_text("Answer")
        terminal.press(b"/export " + str(tmp_path / "a\u2066b.md").encode() + b"\r")
        terminal.wait_until(lambda: any(tmp_path.glob("a*b.md")))
        terminal.wait_for_text("Exported to")
        terminal.press(b"\x1bOQ")  # F2: the system prompt
        terminal.wait_for_text("top_p")
        terminal.press(b"\x11")  # Ctrl+Q
        assert terminal.wait_for_exit() == 0
    assert control_effects(terminal.output) == []


@pytest.mark.parametrize("strip", [False, True])
def test_ask(tmp_path: Path, strip: bool) -> None:
    with serving(nasty_server) as server:
        argv = ["ask", "-m", server.url, "Hi"]
        if not strip:
            assert b"BEGIN" in (output := on_terminal(tmp_path, *argv))
            assert control_effects(output) == []
        piped = subprocess.run(
            [sys.executable, "-m", "glmtui", *argv, *(["--strip"] if strip else [])],
            env=environ(tmp_path),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
        )
    assert (control_effects(piped.stdout) == []) is strip
    assert (ALL.encode() in piped.stdout) is not strip  # a pipe has it as it is


def test_commands_that_show_saved_text(tmp_path: Path) -> None:
    with Store(tmp_path / "data/conversations") as store:
        store.save(nasty_talk())
        (store.folder / "bad\x1b]0;evil\x07-1f2e3d4c.toml").write_text("not [ TOML")
    write_folder(tmp_path / "cache/models/x", llama_files())
    manifest = {"format": 1, "family": "llama", "title": ALL, "source": ALL, "stored": ALL}
    (tmp_path / "cache/models/x/manifest.json").write_text(json.dumps(manifest | {"name": ALL}))
    (tmp_path / "talk.json").write_text(json.dumps([{"role": "user", "content": ALL}]))
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.toml").write_text(f'model = 3 # {MARKUP}\n"\u202e{MARKUP}" = "x"\n')
    for said, argv in {
        "Title": ["list"],
        "Question": ["export", "last"],
        "role": ["export", "last", "--format", "toml"],
        "content": ["export", "last", "--format", "json"],
        "glmtui --open": ["import", "talk.json"],
        "installed": ["models"],
        "model": ["config"],
        "glmtui": ["doctor"],
        "evil": ["ask", "-m", "./evil\x1b[7777m", "hi"],
        "phish": ["pull", "./phish\x1b]0;x\x07"],
        "nowhere": ["export", "nowhere\x1b[7777m"],
    }.items():
        output = on_terminal(tmp_path, *argv)
        assert said.encode() in output, argv
        assert control_effects(output) == [], argv
