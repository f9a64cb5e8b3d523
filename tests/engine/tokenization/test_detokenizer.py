"""Detokenizer: the pieces always join to the decoded whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from glmtui.engine.tokenization.detokenizer import Detokenizer


def streamed(pieces: list[bytes], *, strips: bool = False) -> list[str]:
    detokenizer = Detokenizer(pieces.__getitem__, strips_leading_space=strips)
    return [*(detokenizer.feed(i) for i in range(len(pieces))), detokenizer.flush()]


@given(st.lists(st.binary(max_size=5), max_size=30))
def test_pieces_join_to_the_decoded_whole(pieces: list[bytes]) -> None:
    assert "".join(streamed(pieces)) == b"".join(pieces).decode("utf-8", "replace")


@given(st.text(min_size=1), st.data())
def test_whole_characters_only_at_every_split(text: str, data: st.DataObject) -> None:
    raw = text.encode("utf-8", "replace")
    cut = data.draw(st.integers(0, len(raw)))
    first, second, end = streamed([raw[:cut], raw[cut:]])
    assert first + second + end == raw.decode()
    assert "\ufffd" not in first + second or "\ufffd" in text


def test_a_character_that_never_ends_is_marked() -> None:
    assert streamed(["猫".encode()[:2]]) == ["", "\ufffd"]


def test_one_leading_space_is_dropped_where_the_vocabulary_adds_it() -> None:
    assert streamed([b"", b" ", b" a"], strips=True) == ["", "", " a", ""]
    assert streamed([b" a"]) == [" a", ""]
