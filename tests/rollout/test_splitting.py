"""Long evidence in parts: nothing is lost, every part fits, and cuts are where a reader would make them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.evidence.splitting import split
from rollout.evidence.windows import EvidenceError


def words(text: str) -> int:
    return len(text.split())


@given(st.text("ab \n\u00e9", max_size=200), st.integers(1, 30))
def test_every_part_fits_and_nothing_but_space_is_lost(text: str, room: int) -> None:
    parts = split(text, room, len)
    assert all(0 < len(part) <= room for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


def test_paragraphs_stay_whole_then_lines_then_words() -> None:
    assert split("a b c\n\nd e\n\nf", 5, words) == ["a b c\n\nd e", "f"]
    assert split("a b c\n\nd e\nf g h", 3, words) == ["a b c", "d e", "f g h"]
    assert split("a b c d e", 2, words) == ["a b ", "c d ", "e"]
    assert split("abcde", 2, len) == ["ab", "c", "de"]
    assert split("short", 100, len) == ["short"]


def test_texts_that_take_more_together_than_alone_fit_too() -> None:
    def count(text: str) -> int:
        return len(text) ** 2  # superadditive, as merges of tokens are not

    parts = split("a b c d e f", 16, count)
    assert all(count(part) <= 16 for part in parts)
    assert "".join(parts).replace(" ", "") == "abcdef"


def test_a_window_without_room_for_a_character_is_an_error() -> None:
    with pytest.raises(EvidenceError, match="windows of 1 tokens have no room for a single character"):
        split("ab", 1, lambda text: 3 * len(text))
