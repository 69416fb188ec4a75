"""Which tokens of a response are copied: the examples of the paper's algorithm, and what holds of any labels."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.copying.labels import B, CopyLabels, I, O, copy_labels, digits, spelled
from rollout.copying.matches import longest_matches
from rollout.models.tokenizer import build_tokenizer


def words(*texts: str) -> tuple[list[list[int]], np.ndarray]:
    """Ids of the words of each text, and which of them have a digit."""
    known: dict[str, int] = {}
    ids = [[known.setdefault(word, len(known)) for word in text.split()] for text in texts]
    return ids, np.array([any(letter.isdigit() for letter in word) for word in known])


TRAIN = (
    "a train leaves at 14:35 and travels 128 km in 96 minutes",
    "so speed is 128 km in 96 minutes minus stop at 14:35",
)


def test_the_example_of_the_algorithm() -> None:
    (source, target), _ = words("I really very deeply-love my ancestral land", "I love my ancestral land")
    found = copy_labels(source, target, "lcs")
    assert str(found) == "BOBII"
    assert spelled(found.source) == "BOOOBII"


def test_what_is_quoted_out_of_order_is_found_by_ngrams_alone() -> None:
    (source, target), _ = words(*TRAIN)
    assert str(copy_labels(source, target, "lcs")) == "OOOBIIIIOOOO"
    assert str(copy_labels(source, target, "ngram")) == "OOOBIIIIOOBI"


def test_single_tokens_are_copies_where_they_stand_alone() -> None:
    (source, target), alone = words("the train needs 96 minutes", "96 is the number")
    assert str(copy_labels(source, target, "ngram")) == "OOOO"
    assert str(copy_labels(source, target, "ngram", alone)) == "BOOO"
    assert copy_labels(source, target, "lcs").copied == 1
    assert str(copy_labels(source, target, "lcs", alone)) in ("BOOO", "OOOO")  # one of two longest ones
    (source, target), alone = words("the train", "a train of the sort")
    assert copy_labels(source, target, "lcs").copied == 1
    assert copy_labels(source, target, "lcs", alone).copied == 0


def test_of_all_longest_subsequences_the_one_in_fewest_pieces() -> None:
    assert str(copy_labels([1, 2, 3, 9, 3], [1, 2, 3], "lcs")) == "BII"
    assert str(copy_labels([1, 9, 1, 2, 3], [1, 2, 3], "lcs")) == "BII"


@pytest.mark.parametrize("mode", ["lcs", "ngram"])
@pytest.mark.parametrize(("source", "target"), [([], [1, 2]), ([1, 2], []), ([], []), ([1, 2, 3], [4, 5])])
def test_nothing_in_common_is_all_outside(mode: str, source: list[int], target: list[int]) -> None:
    found = copy_labels(source, target, mode)
    assert found.target.tolist() == [O] * len(target)
    assert found.origin.tolist() == [-1] * len(target)


def test_no_span_goes_across_a_part_of_the_source() -> None:
    assert str(copy_labels([1, 2, 3, 4], [2, 3])) == "BI"
    assert str(copy_labels([1, 2, -1, 3, 4], [2, 3])) == "OO"
    assert str(copy_labels([1, 2, -1, 3, 4], [1, 2, 3, 4], "lcs")) == "BIBI"


def test_lcs_of_long_texts_is_refused_with_both_lengths() -> None:
    with pytest.raises(ValueError, match=r"20000 source and 1000 target tokens.*mode ngram"):
        copy_labels(np.zeros(20_000), np.zeros(1000), "lcs")


SEQUENCES = st.lists(st.integers(0, 3), max_size=24)
ALONE = st.lists(st.booleans(), min_size=4, max_size=4)


def check(found: CopyLabels, source: Sequence[int], target: Sequence[int]) -> None:
    """An I follows a B or I from the source's token before; so each run is an n-gram of the source."""
    assert len(found.target) == len(found.origin) == len(target)
    for at, (label, origin) in enumerate(zip(found.target.tolist(), found.origin.tolist(), strict=True)):
        assert (label == O) == (origin == -1)
        if label != O:
            assert source[origin] == target[at]
        if label == I:
            assert at > 0
            assert found.target[at - 1] in (B, I)
            assert origin == found.origin[at - 1] + 1


@settings(deadline=None)
@given(SEQUENCES, SEQUENCES, st.sampled_from(["lcs", "ngram"]), st.none() | ALONE)
def test_every_span_is_an_ngram_of_the_source(source, target, mode, alone) -> None:
    check(copy_labels(source, target, mode, None if alone is None else np.array(alone)), source, target)


def subsequence(source: Sequence[int], target: Sequence[int]) -> int:
    """Length of the longest common subsequence, by the textbook."""
    table = [[0] * (len(target) + 1) for _ in range(len(source) + 1)]
    for i, s in enumerate(source):
        for j, t in enumerate(target):
            table[i + 1][j + 1] = table[i][j] + 1 if s == t else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


@settings(deadline=None)
@given(SEQUENCES, SEQUENCES)
def test_lcs_is_a_longest_one_in_the_order_of_the_source_and_both_sides_agree(source, target) -> None:
    found = copy_labels(source, target, "lcs")
    assert found.copied == subsequence(source, target)
    origins = found.origin[found.origin >= 0].tolist()
    assert origins == sorted(set(origins))
    assert (found.source != O).sum() == found.copied
    taken = np.flatnonzero(found.source != O)
    assert taken.tolist() == origins


def occurs(source: Sequence[int], part: Sequence[int]) -> bool:
    return any([*source[i : i + len(part)]] == [*part] for i in range(len(source) - len(part) + 1))


@settings(deadline=None)
@given(SEQUENCES, SEQUENCES)
def test_longest_matches_are_those_of_looking_everywhere(source, target) -> None:
    lengths, starts = longest_matches(np.array(source, np.int64), np.array(target, np.int64))
    for at, (length, start) in enumerate(zip(lengths.tolist(), starts.tolist(), strict=True)):
        assert occurs(source, target[at : at + length])
        assert at + length == len(target) or not occurs(source, target[at : at + length + 1])
        assert (start == -1) == (length == 0)
        assert [*source[start : start + length]] == target[at : at + length] or not length


@settings(deadline=None)
@given(SEQUENCES, SEQUENCES)
def test_what_is_left_out_of_ngrams_has_no_copy_before_its_next_span(source, target) -> None:
    """Greedy from left to right: an O begins no n-gram of two tokens."""
    labels = copy_labels(source, target).target.tolist()
    for at, label in enumerate(labels):
        if label == O:
            assert not occurs(source, target[at : at + 2]) or at + 1 == len(target)


@pytest.mark.parametrize("tokens", [1, 2, 50, 40_000])
def test_cost_is_nearly_linear_whatever_the_text(tokens: int) -> None:
    rng = np.random.default_rng(tokens)
    source, target = rng.integers(0, tokens, 50_000), rng.integers(0, tokens, 50_000)
    began = time.process_time()
    copy_labels(source, target)
    assert time.process_time() - began < 20  # 0.1 s; comparing all pairs of positions would be minutes


def test_tokens_with_digits_stand_alone() -> None:
    tokenizer = build_tokenizer(["a", "7", "x2", "-"], 8)
    found = digits(tokenizer, len(tokenizer) + 3)
    assert [tokenizer.convert_ids_to_tokens(index) for index in np.flatnonzero(found).tolist()] == ["7", "x2"]
    assert len(found) == len(tokenizer) + 3
