"""The plan of pretraining, the rows that it takes, and what is told of held-out text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.pretraining import Texts, apart, held_out, plan
from rl.pretraining_config import PretrainConfig, PretrainStage, StagesSchedule
from rl.text.config import FactsText
from rl.text.documents import open_source
from rl.text.shards import Ids, Shards
from rl.text.stretch import Stretch
from rl.warmup import Taught


def configured(*stages: PretrainStage) -> PretrainConfig:
    return PretrainConfig(text={"a": FactsText(), "b": FactsText(seed=1)}, schedule=StagesSchedule(list=stages), seed=3)


THREE = configured(
    PretrainStage(steps=5, lr=1.0, ramp=5, batch=3, length=8),
    PretrainStage(steps=6, lr=1.0, batch=4, length=8, grows=(2, 6), mixture={"a": 1.0, "b": 3.0}, balance=0.5),
    PretrainStage(steps=2, lr=0.5, end=0.0, batch=2, length=20, mixture={"b": 1.0}, balance=0.0),
)


def test_each_step_takes_the_windows_behind_those_before() -> None:
    steps = plan(THREE)
    assert [step.stage for step in steps] == [0] * 5 + [1] * 6 + [2] * 2
    assert [sum(step.counts) for step in steps] == [3] * 5 + [4] * 2 + [6] * 4 + [2] * 2
    assert [step.lr for step in steps] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, *[1] * 6, 0.5, 0.25])
    assert [step.balance for step in steps] == [1e-3] * 5 + [0.5] * 6 + [0.0] * 2
    for before, step in pairwise(steps[:11]):
        assert step.first == tuple(np.add(before.first, before.counts))
    read = np.add(steps[10].first, steps[10].counts) * 8
    assert sum(read) == 8 * (15 + 32)
    assert steps[11].first == tuple(-(-read // 20)), "longer windows begin behind what was read"
    assert steps[11].counts == (0, 2)
    assert sum(step.tokens for step in steps) == 8 * (15 + 32) + 4 * 20


def test_a_longer_plan_begins_with_the_shorter_one() -> None:
    assert plan(THREE)[:5] == plan(configured(*THREE.stages[:1]))


def letters(found: Sequence[Stretch]) -> list[list[int]]:
    return [[*one.text.encode(), 256] for one in found]


def texts(folder: Path) -> Texts:
    named = {
        name: Shards(name, open_source(source, None, 0), folder / name, letters, 257, 2000)
        for name, source in THREE.text.items()
    }
    return Texts(named, THREE.seed)


def test_rows_are_a_pure_function_of_the_step(tmp_path: Path) -> None:
    steps = plan(THREE)
    one = texts(tmp_path)
    taken = [[row.tolist() for row in one.rows(step)] for step in steps]
    assert [len(rows) for rows in taken] == [sum(step.counts) for step in steps]
    assert all(len(row) == step.length for rows, step in zip(taken, steps, strict=True) for row in rows)
    assert len({str(row) for rows in taken[:11] for row in rows}) == 47, "a window came twice"
    other = texts(tmp_path)
    for number in (12, 3, 7):
        assert [row.tolist() for row in other.rows(steps[number])] == taken[number]


@given(st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=20), min_size=1, max_size=4))
def test_documents_apart_are_the_pieces_that_predict_something(rows: list[list[int]]) -> None:
    found = [piece.tolist() for piece in apart([np.array(row, np.uint16) for row in rows], 0)]
    expected: list[list[int]] = []
    for row in rows:
        expected.append([])
        for token in row:
            expected[-1].append(token)
            if token == 0:
                expected.append([])
    assert found == [piece for piece in expected if len(piece) > 1]


class Uniform:
    """A model that finds each of so many tokens as likely as any other, at even positions; half as likely at odd."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return [[-math.log(self.tokens * (1 + at % 2)) for at in range(1, len(row))] for row in sequences]

    def pretrain(self, rows: Sequence[Ids], lr: float, step: int, balance: float) -> Taught:
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    def load(self, folder: Path) -> None:
        raise NotImplementedError


def test_bits_per_byte_of_a_uniform_model_are_those_of_its_vocabulary() -> None:
    rows = [np.zeros(9, np.uint16)] * 3
    found = held_out(Uniform(64), rows, bytes_per_token=2.5, bins=4)  # type: ignore[arg-type]
    assert found.loss == pytest.approx(math.log(64) + math.log(2) / 2)
    assert found.bits == pytest.approx((6 + 0.5) / 2.5)
    assert found.positions == pytest.approx([found.loss] * 4)
    (last,) = held_out(Uniform(64), rows, 1.0, bins=99).positions[-1:]  # type: ignore[arg-type]
    assert last == pytest.approx(math.log(64))
