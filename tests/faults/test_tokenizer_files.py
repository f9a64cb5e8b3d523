"""Tokenizer files from elsewhere: what they may cost, and that a bad one ends nothing.

Whatever could take all memory is met by a process of its own, with limits, which says how it went.
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
from glmtui.engine.tokenization.hf_tokenizer import TokenizerJson
from glmtui.engine.tokenization.sentencepiece_tokenizer import SentencePieceTokenizer, load_pieces
from glmtui.errors import BadCheckpoint, EngineError
from support.llama_folders import checkpoint

MOST_SECONDS = 30.0  # of a core: a limit of 10, and twice as much for slow machines
MOST_GROWTH = 150 << 20  # of the process that uses a tokenizer, in bytes

LETTERS = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}


def plain() -> dict[str, Any]:
    """A tokenizer.json of bytes, as its JSON."""
    fast = Tokenizer(models.BPE(vocab=LETTERS, merges=[]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    made: dict[str, Any] = json.loads(fast.to_str())
    return made


def written(folder: Path, **changes: Any) -> Path:
    """`plain` with other entries, in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(plain() | changes))
    return folder


def loaded(folder: Path) -> TokenizerJson:
    tokenizer = TokenizerJson.load(folder)
    assert tokenizer is not None
    return tokenizer


def padding(**changes: Any) -> dict[str, Any]:
    made = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None}
    return made | {"pad_id": 0, "pad_type_id": 0, "pad_token": "!"} | changes


def added(content: str, token_id: int, *, special: bool = True) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": content, **flags, "special": special}


DOUBLING = [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 33
# ---- what the library itself panics at, or aborts
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
    content = json.dumps(plain() | changes).encode()
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - the panic of any version
        Tokenizer.from_buffer(content)
    assert not isinstance(caught.value, Exception), "this version of the library takes it well"
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.json is not a tokenizer: "):
        loaded(written(tmp_path, **changes))


def test_a_bad_tokenizer_does_not_end_the_engine(tmp_path: Path) -> None:
    bad, sound = checkpoint(tmp_path / "bad"), checkpoint(tmp_path / "sound")
    written(bad, model=PREFIX)
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


# ---- what is cut or filled up in silence


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
    ids = loaded(written(tmp_path / "changed", **changes)).encode(text)
    assert ids == loaded(written(tmp_path / "plain")).encode(text)
    assert len(ids) == len(text)


# ---- bombs

# Loads what it is given and encodes, within limits; prints what came, the bytes that it grew by,
# and the seconds of processes that have ended.
MEET = """
import json, resource, sys, time
from pathlib import Path
from glmtui.errors import BadCheckpoint, GlmtuiError
from glmtui.engine.tokenization import bounded_tokenizer, hf_tokenizer
from glmtui.engine.tokenization import sentencepiece_tokenizer as pieces

def peak():
    status = Path("/proc/self/status").read_text()  # ru_maxrss would begin with the parent's
    return int(status.split("VmHWM:")[1].split()[0]) << 10

def load(folder):
    vocabulary = folder / "tokenizer.model"
    if sys.argv[1] == "pieces":
        return pieces.PieceTokenizer(pieces.load_pieces(vocabulary), ["<s>"], readable=False)
    return hf_tokenizer.TokenizerJson.load(folder)

pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30),) * 2)
bounded_tokenizer.LEAST_SECONDS = float(sys.argv[3])
before = peak()
try:
    tokenizer = load(Path(sys.argv[2]))
    assert not {"tokenizers", "sentencepiece"} & sys.modules.keys()
    ids = tokenizer.encode("banana")
    tokenizer.token_bytes(ids[0])
    came = len(ids)
except GlmtuiError as error:
    came = str(error)
print(json.dumps([came, peak() - before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime]))
"""


def meet(folder: Path, kind: str = "json", seconds: float = 10.0) -> tuple[int | str, float]:
    """How many ids "banana" has, or the error; and the seconds of processes that have ended.

    Asserts that it cost little, and that no library was loaded beside us.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", MEET, kind, str(folder), str(seconds)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr[-2000:]
    came, grown, ended = json.loads(done.stdout)
    assert grown < MOST_GROWTH
    assert after.ru_utime - before.ru_utime < MOST_SECONDS
    return came, ended


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"padding": padding(strategy={"Fixed": 200_000_000})}, 6),
        ({"padding": padding(pad_to_multiple_of=10**12)}, 6),
        ({"normalizer": {"type": "Sequence", "normalizers": DOUBLING}}, "memory"),
        ({"added_tokens": [added("far", 4_294_967_295)]}, 6),
        ({"added_tokens": [added("", 300)]}, 6),
        ({"added_tokens": [added(f"<{n}>", 300 + n) for n in range(20_001)]}, "special tokens"),
        ({"added_tokens": [added("x" * (2 << 20), 300)]}, "special tokens"),
    ],
    ids=["fixed", "multiple", "doubling", "far", "empty", "many", "long"],
)
def test_a_bomb_costs_little(tmp_path: Path, changes: dict[str, Any], expected: int | str) -> None:
    came, _ended = meet(written(tmp_path, **changes))
    if isinstance(expected, int):
        assert came == expected
    else:
        assert expected in str(came)


def test_a_rule_without_end_is_ended_with_its_process(tmp_path: Path) -> None:
    # every match takes the library to the brink of giving up, and there are many
    rule = {"type": "Split", "pattern": {"Regex": "(a|aa)+$"}, "invert": False}
    slow = [{"type": "Replace", "pattern": {"String": "n"}, "content": ("a" * 28 + "b ") * 100}]
    folder = written(
        tmp_path,
        normalizer={"type": "Sequence", "normalizers": slow},
        pre_tokenizer={**rule, "behavior": "Isolated"},
    )
    came, ended = meet(folder, seconds=0.1)
    assert "too much time" in str(came)
    assert 0.5 < ended < 5  # nothing burns on: it has ended with the answer


def test_a_file_of_pieces_is_bounded_too(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\xff\xff\xff\xff\x07" + b"\0" * 99)
    assert "is not a SentencePiece vocabulary" in str(meet(tmp_path, "pieces")[0])


# ---- its process


def pid_of(tokenizer: TokenizerJson | SentencePieceTokenizer) -> int:
    bounded = tokenizer._bounded if isinstance(tokenizer, TokenizerJson) else tokenizer._processor
    assert bounded._process is not None
    return bounded._process.pid


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL])
def test_a_process_that_dies_is_told_and_replaced(tmp_path: Path, number: signal.Signals) -> None:
    tokenizer = loaded(written(tmp_path))
    ids = tokenizer.encode("hi")
    os.kill(pid_of(tokenizer), number)
    with pytest.raises(EngineError, match="gave up on this text"):
        tokenizer.encode("hi")
    assert tokenizer.encode("hi") == ids
    os.kill(pid_of(tokenizer), number)
    assert b"".join(map(tokenizer.token_bytes, ids)) == b"hi"  # needs no process


def test_a_process_that_dies_before_it_has_loaded_is_told(tmp_path: Path) -> None:
    tokenizer = TokenizerJson.load(written(tmp_path, added_tokens=[added("<s>", 256)]), wait=False)
    assert tokenizer is not None
    os.kill(pid_of(tokenizer), signal.SIGKILL)
    with pytest.raises(BadCheckpoint, match="too much time or memory"):
        assert tokenizer.special
    assert tokenizer.special == {"<s>": 256}
    assert tokenizer.token_bytes(LETTERS["a"]) == b"a"


def test_another_file_in_its_place_is_not_taken(tmp_path: Path) -> None:
    tokenizer = loaded(written(tmp_path))
    written(tmp_path, added_tokens=[added("<evil>", 300)])
    os.kill(pid_of(tokenizer), signal.SIGKILL)
    with pytest.raises(EngineError):
        tokenizer.encode("hi")
    with pytest.raises(BadCheckpoint, match="has changed"):
        tokenizer.encode("hi")


def pieces(folder: Path) -> SentencePieceTokenizer:
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox"] * 20),
        model_writer=made,
        minloglevel=2,
        hard_vocab_limit=False,
        vocab_size=30,
    )
    (folder / "tokenizer.model").write_bytes(made.getvalue())
    processor = load_pieces(folder / "tokenizer.model")
    assert processor is not None
    return SentencePieceTokenizer(processor, ["<s>"], readable=False)


@pytest.mark.parametrize("make", [lambda folder: loaded(written(folder)), pieces])
def test_it_has_none_of_our_secrets_and_goes_with_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Any]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret4711")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tokenizers.py").write_text("raise SystemExit('run')")
    monkeypatch.syspath_prepend("")
    tokenizer = make(tmp_path)
    place = Path(f"/proc/{pid_of(tokenizer)}")
    assert b"4711" not in (place / "environ").read_bytes()
    assert tokenizer.encode("the")
    del tokenizer
    gc.collect()
    assert not place.exists()


# ---- SentencePiece files that are read as a Llama's tokenizer


def field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message, of a length below 16,384."""
    return bytes([number << 3 | 2, len(content) & 0x7F | 0x80, len(content) >> 7]) + content


def test_pieces_whose_merges_fill_the_memory_are_a_bad_file(tmp_path: Path) -> None:
    """20,000 pieces, each of which can be cut in two other pieces nearly everywhere."""
    pieces = (b"a" * i + b"b" * j for i in range(201) for j in range(201 - i) if i + j)
    content = b"".join(field(1, field(1, piece)) for piece in pieces)
    (tmp_path / "tokenizer.model").write_bytes(content + field(2, b"\x18\x02"))
    cost, grown = time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with pytest.raises(
        BadCheckpoint, match=r"tokenizer\.model is not a tokenizer: it takes too much"
    ):
        TokenizerJson.load_pieces(tmp_path)
    gc.collect()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - grown.ru_utime - grown.ru_stime < MOST_SECONDS
    assert time.process_time() - cost < 2
