"""Tokenizer files from untrusted sources: bounded cost, and a bad file stops nothing else.

Files that could take all memory are loaded in a process with limits.
"""

from __future__ import annotations

import gc
import io
import json
import os
import queue
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from glmtui.chat import Message, SamplingParams
from glmtui.engine.api import Event, Failed, Finished, LoadFailed, Ready, Request
from glmtui.engine.catalog import resolver
from glmtui.engine.model_info import LoadOptions
from glmtui.engine.thread import EngineThread
from glmtui.engine.tokenization.hf_tokenizer import HFTokenizer
from glmtui.engine.tokenization.sentencepiece_tokenizer import (
    SentencePieceTokenizer,
    load_sentencepiece,
)
from glmtui.errors import BadCheckpoint, EngineError
from support.llama_folders import write_llama_folder

MAX_SECONDS = 30.0  # of CPU time: the limit of 10, and 20 for slow machines
MAX_GROWTH = 150 << 20  # of the parent process, in bytes

LETTERS = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}


def byte_tokenizer() -> dict[str, Any]:
    """The content of a tokenizer.json with one token per byte."""
    tokenizer = Tokenizer(models.BPE(vocab=LETTERS, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    return content


def write_tokenizer(folder: Path, **changes: Any) -> Path:
    """Writes `byte_tokenizer` with changed entries."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(byte_tokenizer() | changes))
    return folder


def load_tokenizer(folder: Path) -> HFTokenizer:
    tokenizer = HFTokenizer.load(folder)
    assert tokenizer is not None
    return tokenizer


def padding(**changes: Any) -> dict[str, Any]:
    fields = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None}
    return fields | {"pad_id": 0, "pad_type_id": 0, "pad_token": "!"} | changes


def added_token(content: str, token_id: int, *, special: bool = True) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": content, **flags, "special": special}


DOUBLING = [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 33
# ---- files that make the library panic or abort
PREFIX = {
    "type": "BPE",
    "continuing_subword_prefix": "##",
    "vocab": {"a": 0, "b": 1, "ab": 2},
    "merges": [["a", "b"]],
}
CHARSMAP = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}


@pytest.mark.parametrize(
    "changes", [{"model": PREFIX}, {"normalizer": CHARSMAP}], ids=["merge", "charsmap"]
)
def test_a_file_that_the_library_panics_at_is_a_bad_one(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    content = json.dumps(byte_tokenizer() | changes).encode()
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - the panic of any version
        Tokenizer.from_buffer(content)
    assert not isinstance(caught.value, Exception), "this version of the library does not panic"
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.json is not a tokenizer: "):
        load_tokenizer(write_tokenizer(tmp_path, **changes))


def test_a_bad_tokenizer_does_not_end_the_engine(tmp_path: Path) -> None:
    bad, sound = write_llama_folder(tmp_path / "bad"), write_llama_folder(tmp_path / "sound")
    write_tokenizer(bad, model=PREFIX)
    events: queue.Queue[Event] = queue.Queue()
    engine = EngineThread(events.put)
    engine.start()
    options = LoadOptions(device="cpu", dtype="float32")

    def until(*kinds: type[Event]) -> Event:
        while not isinstance(event := events.get(timeout=60), kinds):
            pass
        return event

    try:
        engine.load(resolver.resolve(str(bad)), options)
        failed = until(LoadFailed, Ready)
        assert isinstance(failed, LoadFailed)
        assert "tokenizer.json is not a tokenizer" in failed.error.message
        engine.load(resolver.resolve(str(sound)), options)
        assert isinstance(until(LoadFailed, Ready), Ready)
        engine.submit(Request(1, (Message("user", "hello"),), SamplingParams(max_new_tokens=2)))
        assert isinstance(until(Failed, Finished), Finished)
    finally:
        assert engine.close(30)


# ---- settings that would truncate or pad a prompt


@pytest.mark.parametrize(
    "changes",
    [
        {"truncation": {"max_length": 5, "strategy": "LongestFirst", "stride": 0}},
        {"truncation": {"max_length": 2, "strategy": "LongestFirst", "stride": 5}},
        {"padding": padding(strategy={"Fixed": 500})},
        {"padding": padding(pad_to_multiple_of=512)},
        {"padding": padding(pad_to_multiple_of=0)},
    ],
    ids=["truncation", "stride", "fixed", "multiple", "multiple of none"],
)
def test_questions_are_neither_cut_nor_padded(tmp_path: Path, changes: dict[str, Any]) -> None:
    if "truncation" in changes:
        changes["truncation"]["direction"] = "Right"
    text = "a question of some length, which is not to be cut"
    ids = load_tokenizer(write_tokenizer(tmp_path / "changed", **changes)).encode(text)
    assert ids == load_tokenizer(write_tokenizer(tmp_path / "plain")).encode(text)
    assert len(ids) == len(text)


# ---- bombs

# Loads a tokenizer and encodes a word, under a memory limit. Prints the number of ids or the error,
# the growth of its memory in bytes, and the CPU time of its children that have ended.
LOAD_PROGRAM = """
import json, resource, sys
from pathlib import Path
from glmtui.errors import GlmtuiError
from glmtui.engine.tokenization import hf_tokenizer, sandboxed_tokenizer, sentencepiece_tokenizer

def peak_memory():
    status = Path("/proc/self/status").read_text()  # ru_maxrss includes the parent's
    return int(status.split("VmHWM:")[1].split()[0]) << 10

def load(folder):
    vocabulary = folder / "tokenizer.model"
    if sys.argv[1] == "sentencepiece":
        sandboxed = sentencepiece_tokenizer.load_sentencepiece(vocabulary)
        special = ["<s>"]
        return sentencepiece_tokenizer.SentencePieceTokenizer(
            sandboxed, special, decode_special=False
        )
    return hf_tokenizer.HFTokenizer.load(folder)

pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30),) * 2)
sandboxed_tokenizer.MIN_SECONDS = float(sys.argv[3])
before = peak_memory()
try:
    tokenizer = load(Path(sys.argv[2]))
    assert not {"tokenizers", "sentencepiece"} & sys.modules.keys()
    ids = tokenizer.encode("banana")
    tokenizer.token_bytes(ids[0])
    result = len(ids)
except GlmtuiError as error:
    result = str(error)
child_seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
print(json.dumps([result, peak_memory() - before, child_seconds]))
"""


def load_in_process(
    folder: Path, kind: str = "json", seconds: float = 10.0
) -> tuple[int | str, float]:
    """The number of ids of "banana" or the error, and the CPU time of sandboxed processes.

    Asserts that little memory and time was used, and that no tokenizer library was imported.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", LOAD_PROGRAM, kind, str(folder), str(seconds)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr[-2000:]
    result, growth, child_seconds = json.loads(done.stdout)
    assert growth < MAX_GROWTH
    assert after.ru_utime - before.ru_utime < MAX_SECONDS
    return result, child_seconds


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"padding": padding(strategy={"Fixed": 200_000_000})}, 6),
        ({"padding": padding(pad_to_multiple_of=10**12)}, 6),
        ({"normalizer": {"type": "Sequence", "normalizers": DOUBLING}}, "memory"),
        ({"added_tokens": [added_token("far", 4_294_967_295)]}, 6),
        ({"added_tokens": [added_token("", 300)]}, 6),
        (
            {"added_tokens": [added_token(f"<{n}>", 300 + n) for n in range(20_001)]},
            "special tokens",
        ),
        ({"added_tokens": [added_token("x" * (2 << 20), 300)]}, "special tokens"),
    ],
    ids=["fixed", "multiple", "doubling", "far", "empty", "many", "long"],
)
def test_a_bomb_costs_little(tmp_path: Path, changes: dict[str, Any], expected: int | str) -> None:
    result, _child_seconds = load_in_process(write_tokenizer(tmp_path, **changes))
    if isinstance(expected, int):
        assert result == expected
    else:
        assert expected in str(result)


def test_a_rule_without_end_is_ended_with_its_process(tmp_path: Path) -> None:
    # each of many matches takes nearly as long as the library's own limit allows
    rule = {"type": "Split", "pattern": {"Regex": "(a|aa)+$"}, "invert": False}
    slow = [{"type": "Replace", "pattern": {"String": "n"}, "content": ("a" * 28 + "b ") * 100}]
    folder = write_tokenizer(
        tmp_path,
        normalizer={"type": "Sequence", "normalizers": slow},
        pre_tokenizer={**rule, "behavior": "Isolated"},
    )
    result, child_seconds = load_in_process(folder, seconds=0.1)
    assert "too much time" in str(result)
    assert 0.5 < child_seconds < 5  # the process has ended and uses no more time


def test_a_file_of_pieces_is_bounded_too(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\xff\xff\xff\xff\x07" + b"\0" * 99)
    assert "is not a SentencePiece vocabulary" in str(load_in_process(tmp_path, "sentencepiece")[0])


# ---- the sandboxed process


def pid_of(tokenizer: HFTokenizer | SentencePieceTokenizer) -> int:
    process = tokenizer._sandboxed._process
    assert process is not None
    return process.pid


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL])
def test_a_process_that_dies_is_reported_and_replaced(
    tmp_path: Path, number: signal.Signals
) -> None:
    tokenizer = load_tokenizer(write_tokenizer(tmp_path))
    ids = tokenizer.encode("hi")
    os.kill(pid_of(tokenizer), number)
    with pytest.raises(EngineError, match="failed on this text"):
        tokenizer.encode("hi")
    assert tokenizer.encode("hi") == ids
    os.kill(pid_of(tokenizer), number)
    assert b"".join(map(tokenizer.token_bytes, ids)) == b"hi"  # no process needed


def test_a_process_that_dies_before_it_has_loaded_is_reported(tmp_path: Path) -> None:
    tokenizer = HFTokenizer.load(
        write_tokenizer(tmp_path, added_tokens=[added_token("<s>", 256)]), wait=False
    )
    assert tokenizer is not None
    os.kill(pid_of(tokenizer), signal.SIGKILL)
    with pytest.raises(BadCheckpoint, match="too much time or memory"):
        assert tokenizer.special
    assert tokenizer.special == {"<s>": 256}
    assert tokenizer.token_bytes(LETTERS["a"]) == b"a"


def test_a_changed_file_is_not_loaded_again(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tokenizer(tmp_path))
    write_tokenizer(tmp_path, added_tokens=[added_token("<evil>", 300)])
    os.kill(pid_of(tokenizer), signal.SIGKILL)
    with pytest.raises(EngineError):
        tokenizer.encode("hi")
    with pytest.raises(BadCheckpoint, match="has changed"):
        tokenizer.encode("hi")


def make_sentencepiece_tokenizer(folder: Path) -> SentencePieceTokenizer:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox"] * 20),
        model_writer=model,
        minloglevel=2,
        hard_vocab_limit=False,
        vocab_size=30,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    sandboxed = load_sentencepiece(folder / "tokenizer.model")
    assert sandboxed is not None
    return SentencePieceTokenizer(sandboxed, ["<s>"], decode_special=False)


@pytest.mark.parametrize(
    "make", [lambda folder: load_tokenizer(write_tokenizer(folder)), make_sentencepiece_tokenizer]
)
def test_the_process_gets_no_secrets_and_ends_with_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Any]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret4711")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tokenizers.py").write_text("raise SystemExit('run')")
    monkeypatch.syspath_prepend("")
    tokenizer = make(tmp_path)
    proc_entry = Path(f"/proc/{pid_of(tokenizer)}")
    assert b"4711" not in (proc_entry / "environ").read_bytes()
    assert tokenizer.encode("the")
    del tokenizer
    gc.collect()
    assert not proc_entry.exists()


# ---- SentencePiece files that are converted


def field(number: int, content: bytes) -> bytes:
    """A protobuf field of less than 16,384 bytes."""
    return bytes([number << 3 | 2, len(content) & 0x7F | 0x80, len(content) >> 7]) + content


def test_pieces_whose_merges_fill_the_memory_are_a_bad_file(tmp_path: Path) -> None:
    """20,000 pieces; nearly every split of one gives two other pieces."""
    pieces = (b"a" * i + b"b" * j for i in range(201) for j in range(201 - i) if i + j)
    content = b"".join(field(1, field(1, piece)) for piece in pieces)
    (tmp_path / "tokenizer.model").write_bytes(content + field(2, b"\x18\x02"))
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with pytest.raises(
        BadCheckpoint, match=r"tokenizer\.model is not a tokenizer: it needs too much"
    ):
        HFTokenizer.load_sentencepiece(tmp_path)
    gc.collect()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < MAX_SECONDS
    assert time.process_time() - started < 2
