"""Which windows a step trains on: pure functions of the number, each window once an epoch, shares kept at all times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.text.drawing import Windows, shares
from rl.text.stretch import TextError
from tests.text_kit import END, TEXTS, everything, of_texts, shards

weights = st.lists(st.floats(0, 10), min_size=1, max_size=8).filter(lambda found: sum(found) > 0.01)


@given(weights, st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_every_source_has_its_share_after_every_step_up_to_one(found: list[float], rows: list[int]) -> None:
    counts = shares(found, rows)
    assert (counts >= 0).all()
    assert counts.sum(1).tolist() == rows
    due = np.outer(np.cumsum(rows), np.array(found) / sum(found))
    assert np.abs(np.cumsum(counts, 0) - due).max() < 1 + 1e-6
    assert (counts[:, np.array(found) == 0] == 0).all()
    assert np.array_equal(shares(found, rows[: len(rows) // 2]), counts[: len(rows) // 2]), (
        "a longer plan begins the same"
    )


def test_shares_that_come_out_even_are_exact() -> None:
    assert shares([1, 1, 2], [4] * 3).tolist() == [[1, 1, 2]] * 3
    assert shares([0.1] * 10, [10] * 2).tolist() == [[1] * 10] * 2
    assert shares([7, 2, 1], [10]).tolist() == [[7, 2, 1]]
    assert shares([1, 0], [3]).tolist() == [[3, 0]]


def windows(folder: Path, length: int = 16, seed: int = 0) -> Windows:
    return Windows(shards(of_texts(TEXTS), folder), length, seed)


def test_each_epoch_is_another_order_of_all_windows(tmp_path: Path) -> None:
    drawn = windows(tmp_path)
    drawn.shards.fill(10**9)
    whole = []
    for number in range(len(drawn.shards)):
        tokens = drawn.shards.train(number).tolist()
        whole += [tuple(tokens[at : at + 16]) for at in range(0, len(tokens) - 15, 16)]
    epochs = [[tuple(drawn[len(whole) * epoch + n].tolist()) for n in range(len(whole))] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(whole)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != whole


def test_a_window_depends_on_nothing_but_its_number(tmp_path: Path) -> None:
    order = windows(tmp_path / "one")
    first = [order[number].tolist() for number in range(700)]
    other = windows(tmp_path / "other")
    for number in (650, 3, 699, 0, 120, 699):
        assert other[number].tolist() == first[number]
    assert [windows(tmp_path / "one")[number].tolist() for number in range(20)] == first[:20]
    assert [windows(tmp_path / "one", seed=1)[number].tolist() for number in range(20)] != first[:20]


def test_only_the_shards_that_are_needed_are_made(tmp_path: Path) -> None:
    drawn = windows(tmp_path)
    drawn[0]
    assert len(drawn.shards) == 1
    drawn[drawn.shards.tokens // 16]
    assert len(drawn.shards) == 2


def test_text_shorter_than_a_batch_comes_round_and_shorter_than_a_sequence_is_refused(tmp_path: Path) -> None:
    short = Windows(shards(of_texts(["some twenty letters or so"]), tmp_path), 8, 0)
    rows = [tuple(short[number].tolist()) for number in range(40)]
    assert len(everything(short.shards)) == short.shards.tokens == 23
    assert len(set(rows)) == 2
    assert all(set(rows[at : at + 2]) == set(rows) for at in range(0, 40, 2))
    with pytest.raises(
        TextError, match=r"^text 'prose' has 23 tokens to train on, fewer than one sequence \(24\): add"
    ):
        Windows(short.shards, 24, 0)[0]
    assert END not in rows[0]
