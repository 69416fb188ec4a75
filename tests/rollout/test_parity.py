"""Bounds on what engine and learner may differ by: types, what the same weights showed, what the bounds catch."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from tiny_models import log_probs, tiny_llama

from rollout.config import RolloutConfig
from rollout.engine import ParityError
from rollout.pool.parity import BY_TYPE, EXACT, Bounds, Gap, Limits, check_loaded, check_published, gap_of, limits

torch.set_num_threads(1)  # tiny tensors: a second thread only waits
SEQUENCES = [[(7 * i + 3 * j * j) % 32 for j in range(60)] for i in range(4)]


def scores(model: torch.nn.Module) -> list[list[float]]:
    return [log_probs(model, sequence) for sequence in SEQUENCES]


def test_the_gap_is_mean_quantile_and_largest_with_both_numbers() -> None:
    ours = [[-1.0] * 100, [-2.0] * 100]
    theirs = [[-1.0] * 100, [-2.0] * 99 + [-2.5]]
    assert gap_of(ours, theirs) == Gap(0.5 / 200, 0.0, 0.5, -2.0, -2.5, 200)
    assert gap_of([], []) == Gap()
    with pytest.raises(ParityError, match="different lengths"):
        gap_of([[0.0]], [[0.0, 0.0]])


def test_nan_keeps_no_bound() -> None:
    gap = gap_of([[float("nan")] + [0.0] * 500], [[0.0] * 501])
    assert gap.mean == gap.largest == math.inf
    assert not gap.within(Bounds(1e9, 1e9))


def test_the_coarser_type_decides_and_keys_have_priority() -> None:
    plain = RolloutConfig()
    assert limits(plain, "float32", "float32").after() == EXACT
    assert limits(plain, "float32", "bfloat16").after() == limits(plain, "bfloat16", "float32").after()
    own = limits(RolloutConfig(parity_mean=0.5), "bfloat16")
    assert own.after(Gap(mean=0.01, high=0.1)) == Bounds(0.5, pytest.approx(0.3))


def test_what_the_same_weights_showed_sets_the_bounds_within_those_of_the_type() -> None:
    allowed = Limits("bfloat16")
    assert allowed.after(Gap(mean=0.02, high=0.1)) == Bounds(pytest.approx(0.06), pytest.approx(0.3))
    assert allowed.after(Gap()) == EXACT, "never below what float32 may"
    assert allowed.after(Gap(mean=9.0, high=9.0)) == BY_TYPE["bfloat16"]
    assert Limits("float32").after(Gap(mean=9.0, high=9.0)) == EXACT


def test_what_was_measured_on_a_real_model_in_bfloat16_passes() -> None:
    """SmolLM2-135M on vLLM, the same weights: 0.05 nats on average, 0.39 at most; one bound of 0.01 stopped it."""
    gap = Gap(0.05, 0.3, 0.39, -2.0, -2.39, 400)
    check_loaded("engine 0", gap, Limits("bfloat16"))
    check_published("engine 0", 7, gap, gap, Limits("bfloat16"))
    check_published("engine 0", 7, gap, None, Limits("bfloat16"))
    with pytest.raises(ParityError):
        check_published("engine 0", 7, gap, None, Limits("float32"))


def trained(steps: int) -> tuple[Any, Any]:
    """A small model, and the same after some steps of ordinary training."""
    before = tiny_llama(tied=True, seed=3)
    after = copy.deepcopy(before).train()
    optimizer = torch.optim.AdamW(after.parameters(), lr=3e-3)
    batch = torch.tensor(SEQUENCES)
    for _ in range(steps):
        optimizer.zero_grad()
        after(batch, labels=batch).loss.backward()
        optimizer.step()
    return before, after.eval()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_stale_tied_head_is_caught_in_each_type(dtype: str) -> None:
    """What vLLM serves when ``lm_head.weight`` of a tied model is not sent: new layers under the old head."""
    before, after = trained(10)
    kind = getattr(torch, dtype)
    allowed = Limits(dtype)
    loaded = gap_of(scores(copy.deepcopy(before).to(kind)), scores(before))
    check_loaded("engine 0", loaded, allowed)
    right = copy.deepcopy(after).to(kind)
    check_published("engine 0", 1, gap_of(scores(right), scores(after)), loaded, allowed)
    stale = copy.deepcopy(after)
    stale.config.tie_word_embeddings = False
    stale.lm_head.weight = torch.nn.Parameter(before.lm_head.weight.detach().clone())
    gap = gap_of(scores(stale.to(kind)), scores(after))
    with pytest.raises(ParityError, match="some weights of this version did not arrive"):
        check_published("engine 0", 1, gap, loaded, allowed)


def test_the_message_tells_numbers_and_what_may_be_the_cause() -> None:
    gap = Gap(0.4, 1.5, 2.0, -1.25, -3.25, 300)
    with pytest.raises(ParityError) as told:
        check_published("engine 1", 5, gap, Gap(mean=0.02, high=0.1), Limits("bfloat16"))
    for words in ("engine 1", "version 5", "0.4 nats", "bound 0.06", "within 1.5", "bound 0.3", "-1.250000 against"):
        assert words in str(told.value)
    assert "in bfloat16 too, so some weights" in str(told.value)
    with pytest.raises(ParityError, match=r"Either bfloat16 is too coarse .* or the engine does not serve"):
        check_published("engine 1", 5, gap, None, Limits("bfloat16"))
    with pytest.raises(ParityError, match=r"before|not the transfer: bfloat16 is too coarse"):
        check_loaded("engine 1", gap, Limits("bfloat16"))
    with pytest.raises(ParityError) as exact:
        check_published("engine 1", 5, gap, None, Limits("float32"))
    assert "coarse" not in str(exact.value)
    assert "\n" not in str(exact.value)
