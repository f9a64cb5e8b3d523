"""Files of every version of the format that ever was are read; the samples are never rewritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmtui.chat import Conversation, SamplingParams
from glmtui.store import Store, dumps, loads
from glmtui.store.conversation_format import FORMAT
from support import TESTS

GOLDEN = TESTS / "goldens" / "conversations"
SAMPLES = sorted(GOLDEN.glob("conversation-*.*"))


def test_there_is_a_sample_of_every_version() -> None:
    names = {f"conversation-{n}.{end}" for n in range(1, FORMAT + 1) for end in ("toml", "json")}
    assert {path.name for path in SAMPLES} == names


@pytest.fixture(params=SAMPLES, ids=lambda path: path.name)
def talk(request: pytest.FixtureRequest, tmp_path: Path) -> Conversation:
    """A sample, as the store finds it."""
    path: Path = request.param
    (tmp_path / f"x-1f2e3d4c{path.suffix}").write_bytes(path.read_bytes())
    return Store(tmp_path).load("1f2e3d4c")


def test_all_of_a_sample_is_understood(talk: Conversation) -> None:
    assert (talk.id, talk.title, talk.model) == ("1f2e3d4c", "Quotes, “code” and 你好", "smollm2")
    assert talk.system == "Be brief.\n'''Really.'''"
    assert talk.params == SamplingParams(temperature=0.7, top_k=40, seed=1)
    assert talk.created.isoformat() == "2026-11-22T18:00:00+00:00"
    question, reply, edited, call, seen, failed = talk.path
    assert question.content == 'Write C:\\new and "x"\n\n[[messages]]\n\tend\x7f\r\n'
    assert reply.content == "```py\nprint('''hi''')\n```"
    assert reply.stats is not None
    assert (reply.stats.generated_tokens, reply.stats.peak_memory) == (9, 123456789)
    assert edited.content == "Call a tool"
    assert (call.metadata, call.finish_reason) == ("get_weather", "stop")
    assert (seen.role, seen.content) == ("observation", "sunny")
    assert (failed.error, failed.finish_reason) == ("No memory left on cuda:0.", "error")
    other, cut = (talk.get(name) for name in ("m3", "m4"))
    assert {m.id for m in talk.siblings(edited.id)} == {other.id, edited.id}
    assert (other.content, cut.content) == ("Once more", "It was cut")
    assert cut.finish_reason is None


def test_it_can_be_written_as_it_is_now(talk: Conversation) -> None:
    assert loads(dumps(talk, "toml"), "toml") == talk
    assert loads(dumps(talk, "json"), "json") == talk
