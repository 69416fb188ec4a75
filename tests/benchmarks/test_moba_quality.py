"""The quality study of block attention: its language, what its arms share, its arithmetic. Its losses are no test."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import moba_quality
from benchmarks.moba_quality import (
    FACTS_ALONE,
    SPAN,
    TOKENS,
    Arm,
    Settings,
    arms,
    logprobs,
    new_model,
    plot,
    seed_rows,
    sequences,
    summary,
)
from kernels.varlen import NAME as FULL
from rl.text.facts import KEYS, VALUES, Language
from rollout.models import moba

torch.set_num_threads(1)
KEY_0, VALUE_0 = TOKENS.index(KEYS[0]), TOKENS.index(VALUES[0])
TINY = Settings(fact_steps=1, short_steps=1, steps=10, length=512, batch=2, held_out=1, words=1.0, lr=1e-2, width=64)


def test_a_recalled_value_is_the_one_that_its_distance_points_to() -> None:
    drawn = sequences(Language(), 3, 700, (7,))
    assert drawn.tokens.shape == drawn.distance.shape == (3, 700)
    assert 0 <= drawn.tokens.min() <= drawn.tokens.max() < len(TOKENS)
    for tokens, distance in zip(drawn.tokens.tolist(), drawn.distance.tolist(), strict=True):
        last: dict[int, int] = {}
        for at, token in enumerate(tokens):
            if token < VALUE_0:
                assert distance[at] == 0
                continue
            key = tokens[at - 1]
            assert KEY_0 <= key < VALUE_0
            assert distance[at] == at - last.get(key, at)
            if key in last:
                assert tokens[last[key]] == token
            last[key] = at
    owners = {
        (tokens[at - 1], tokens[at]) for tokens in drawn.tokens.tolist() for at in range(700) if tokens[at] >= VALUE_0
    }
    assert len({value for _, value in owners}) == len(VALUES)
    assert len(owners) > 2 * len(KEYS), "a value tells its key"
    assert (drawn.distance > SPAN).sum() > 20, "nothing that a sparse query could miss"


def test_sequences_follow_from_their_seed() -> None:
    first, again, other = (sequences(Language(), 2, 100, seed).tokens for seed in [(1, 2), (1, 2), (1, 3)])
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert (sequences(Language(words=0.0), 1, 50, (1,)).tokens >= KEY_0).all()


def test_facts_alone_are_about_few_keys_so_that_they_repeat_soon() -> None:
    drawn = sequences(FACTS_ALONE, 4, 64, (0,)).tokens
    per_sequence = [{token for token in tokens if KEY_0 <= token < VALUE_0} for tokens in drawn.tolist()]
    assert all(len(keys) <= FACTS_ALONE.keys for keys in per_sequence)
    assert len(set().union(*per_sequence)) > FACTS_ALONE.keys, "each sequence draws keys of its own"


def test_all_arms_are_full_attention_up_to_the_span_and_none_beyond() -> None:
    model = new_model(0, 512, 64)

    def under(arm: Arm, length: int) -> torch.Tensor:
        moba.use(model, arm.block, otherwise=FULL)
        with torch.no_grad():
            return logprobs(model, sequences(Language(), 2, length, (0,)))

    full, *sparse = arms(steps=100)
    for arm in sparse:
        assert arm.block is not None
        assert arm.block.block_size * arm.block.top_k == SPAN
        torch.testing.assert_close(under(arm, SPAN), under(full, SPAN), rtol=0, atol=1e-5)
        assert (under(arm, 300) - under(full, 300)).abs().max() > 1e-5
    hybrid = next(arm.block for arm in sparse if arm.block and arm.block.full_from)
    assert (hybrid.at(89), hybrid.at(90)) == (hybrid, None)


def test_finished_arms_are_kept_and_compared_seed_by_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moba_quality, "arms", lambda steps: arms(steps)[:2])
    rows = seed_rows(TINY, 0, tmp_path)
    assert [row["density"] for row in rows] == [
        1.0,
        pytest.approx(moba.shares(arms(10)[1].block, [TINY.length], 3)[0], abs=1e-4),
    ]
    assert all(0 < row["loss"] < 6 and len(row["positions"]) == moba_quality.BINS for row in rows)
    monkeypatch.setattr(moba_quality, "train", lambda *_: pytest.fail("a finished arm was trained again"))
    assert seed_rows(TINY, 0, tmp_path) == rows
    plot(rows, TINY, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_texts_without_far_facts_are_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moba_quality, "start", lambda *_: pytest.fail("trained for a loss that would be NaN"))
    with pytest.raises(SystemExit, match="longer texts"):
        seed_rows(replace(TINY, length=128), 0, tmp_path)


def test_differences_are_between_arms_of_one_seed() -> None:
    def row(arm: str, seed: int, loss: float) -> dict[str, object]:
        values = dict.fromkeys(("loss", "trailing", "rest", "recall_near", "recall_far"), loss)
        return {"arm": arm, "seed": seed, "moba": None if arm == "full" else {}, "density": 0.5, **values}

    rows = [row("full", 0, 1.0), row("a", 0, 1.2), row("full", 1, 3.0), row("a", 1, 3.1), row("a", 2, 9.0)]
    full, sparse = summary(rows)
    assert full["loss_above_full"] == {"median": 0.0, "low": 0.0, "high": 0.0, "n": 2}
    assert sparse["loss"] == pytest.approx(2.15)
    assert sparse["trailing_above_full"] == {"median": 0.15, "low": 0.1, "high": 0.2, "n": 2}
    json.dumps(sparse)
