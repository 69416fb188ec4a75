"""Budgets, continuation, stop rules."""

from __future__ import annotations

from dataclasses import replace

import pytest
from factories import group, ids, problem
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.config import RepetitionConfig, RolloutConfig
from rollout.engine import Delta, Request
from rollout.partial import budget, fold, next_stretch, repeats, tokens_saved, training_sampling
from rollout.types import Group, Prompt, Rollout, Segment, StopReason

CONTEXT = 64
CONFIG = RolloutConfig(
    segment_tokens=8,
    max_tokens=20,
    max_age=2,
    max_failures=2,
    repetition=RepetitionConfig(min_pattern=2, max_pattern=4, count=3),
)


def delta(key: str, tokens: list[int], version: int = 0, **rest: object) -> Delta:
    return Delta(key, tuple(tokens), tuple(-float(t) for t in tokens), version, **rest)  # type: ignore[arg-type]


def single(rollout: Rollout, born: int = 0) -> list[Group]:
    return [Group("g", problem(), (rollout,), born)]


def fresh(name: str = "g/0", prompt: int = 3) -> Rollout:
    return Rollout(name, Prompt(tuple(range(1, prompt + 1))))


@given(
    st.lists(st.integers(0, 2), max_size=24),
    st.integers(0, 5),
    st.integers(0, 5),
    st.integers(0, 4),
)
@settings(max_examples=300, deadline=None)
def test_repeats_decides_as_vllm(tokens: list[int], low: int, extra: int, count: int) -> None:
    vllm_utils = pytest.importorskip("vllm.v1.core.sched.utils")
    from vllm.sampling_params import RepetitionDetectionParams

    high = low + extra
    if high and count < 2:
        assert not repeats(tokens, low, high, count)
        return
    params = RepetitionDetectionParams(max_pattern_size=high, min_pattern_size=low, min_count=count)
    assert repeats(tokens, low, high, count) == vllm_utils.check_sequence_repetition(tokens, params)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [([1, 2, 1, 2, 1, 2], True), ([9, 1, 2, 1, 2, 1, 2], True), ([1, 2, 1, 2], False), ([1, 1, 1, 1, 1, 1], True)],
)
def test_repeats_by_hand(tokens: list[int], expected: bool) -> None:
    assert repeats(tokens, 2, 4, 3) is expected


def test_budget_is_the_smallest_of_segment_total_and_context() -> None:
    rollout = fresh()
    assert budget(rollout, 0, CONFIG, CONTEXT) == 8
    assert budget(rollout, 0, CONFIG, 5) == 2
    grown = rollout.append([Segment(0, (5,) * 6, (0.0,) * 6)], None)
    assert budget(grown, 0, CONFIG, CONTEXT) == 2, "tokens of this version count against its stretch"
    assert budget(grown, 1, CONFIG, CONTEXT) == 8
    long = rollout.append([Segment(0, (5,) * 17, (0.0,) * 17)], None)
    assert budget(long, 1, CONFIG, CONTEXT) == 3
    assert budget(replace(grown, stop=StopReason.EOS), 1, CONFIG, CONTEXT) == 0


def test_the_next_stretch_resends_everything_with_one_seed_per_rollout() -> None:
    sampling = training_sampling(CONFIG, [7])

    def next_request(rollout: Rollout, version: int) -> Request | None:
        stretch = next_stretch(rollout, version, CONFIG, CONTEXT, sampling, seed=1)
        return stretch and stretch.request

    first = next_request(fresh(), 0)
    grown = fresh().append([Segment(0, (5, 6), (0.0, 0.0))], None)
    second = next_request(grown, 1)
    assert first is not None
    assert second is not None
    assert ids(second.prompt.token_ids) == (1, 2, 3, 5, 6)
    assert first.seed == second.seed
    assert sampling.stop_token_ids == (7,)
    assert sampling.top_p == 1.0
    assert sampling.repetition_count == 3
    other = next_request(fresh("g/1"), 0)
    assert other is not None
    assert other.seed != first.seed


def test_fold_makes_segments_by_version_and_leaves_the_input_alone() -> None:
    groups = single(fresh())
    once = fold(groups, [delta("g/0", [4, 5]), delta("g/0", [6], done=True)], 0, CONFIG, CONTEXT)
    twice = fold(once, [delta("g/0", [7], version=1)], 1, CONFIG, CONTEXT)
    (rollout,) = twice[0].rollouts
    assert [(s.version, ids(s.token_ids)) for s in rollout.segments] == [(0, (4, 5, 6)), (1, (7,))]
    assert ids(rollout.logprobs) == (-4.0, -5.0, -6.0, -7.0)
    assert rollout.stop is None
    assert groups[0].rollouts[0].length == 0


def test_fold_piecewise_equals_fold_at_once() -> None:
    deltas = [
        delta("g/0", [4, 5]),
        delta("g/0", [], done=True, error="boom"),
        delta("g/0", [9], done=True, stop=StopReason.EOS),
    ]
    at_once = fold(single(fresh()), deltas, 0, CONFIG, CONTEXT)
    piecewise = single(fresh())
    for piece in deltas:
        piecewise = fold(piecewise, [piece], 0, CONFIG, CONTEXT)
    assert piecewise == at_once
    assert at_once[0].rollouts[0].stop is StopReason.EOS
    assert at_once[0].rollouts[0].failures == 1


@pytest.mark.parametrize(("prompt", "count"), [(3, 20), (CONTEXT - 4, 4)])
def test_length_cap_and_context_stop_with_length(prompt: int, count: int) -> None:
    tokens = list(range(10, 10 + count))
    (result,) = fold(single(fresh(prompt=prompt)), [delta("g/0", tokens, done=True)], 0, CONFIG, CONTEXT)
    assert result.rollouts[0].stop is StopReason.LENGTH
    assert fold([result], [], 5, CONFIG, CONTEXT) == [result], "a finished rollout is beyond the age cap"


def test_repetition_across_the_seam_of_two_segments() -> None:
    groups = fold(single(fresh()), [delta("g/0", [3, 1, 2, 1], done=True)], 0, CONFIG, CONTEXT)
    assert groups[0].rollouts[0].stop is None
    groups = fold(groups, [delta("g/0", [2, 1, 2], version=1, done=True)], 1, CONFIG, CONTEXT)
    rollout = groups[0].rollouts[0]
    assert rollout.stop is StopReason.REPETITION
    assert tokens_saved(rollout, CONFIG) == CONFIG.max_tokens - 7
    without = CONFIG.model_copy(update={"repetition": None})
    assert fold(single(fresh()), [delta("g/0", [1, 2] * 4)], 0, without, CONTEXT)[0].rollouts[0].stop is None


def test_age_cap_aborts_and_failures_abort() -> None:
    assert fold(single(fresh(), born=1), [], 3, CONFIG, CONTEXT)[0].rollouts[0].stop is None
    assert fold(single(fresh(), born=0), [], 3, CONFIG, CONTEXT)[0].rollouts[0].stop is StopReason.ABORTED
    failed = [delta("g/0", [4], done=True, error="x"), delta("g/0", [5], done=True, error="y")]
    (result,) = fold(single(fresh()), failed, 0, CONFIG, CONTEXT)
    assert (result.rollouts[0].stop, result.rollouts[0].length, result.rollouts[0].failures) == (
        StopReason.ABORTED,
        2,
        2,
    )


def test_unknown_progress_is_refused() -> None:
    with pytest.raises(ValueError, match="h/3"):
        fold([group("g", [fresh()])], [delta("h/3", [1])], 0, CONFIG, CONTEXT)
