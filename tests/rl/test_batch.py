from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewards.score import Score
from rl.config import OverlapConfig
from rl.learner.batch import cumulative, pack, pack_demonstrations, split_by_tokens
from rl.learner.window import has_loss, window_of
from rl.record.metrics import unknown
from rollout.types import Author, Group, Problem, Prompt, Rollout, Segment, StopReason
from tests.learner_kit import make_batch


def rollout(name, *segments, prompt=(1, 2)):
    parts = tuple(Segment(version, tuple(tokens), (-0.5,) * len(tokens)) for version, tokens in segments)
    return Rollout(name, Prompt(prompt), parts, StopReason.EOS, Score.right())


def group(name, *rollouts):
    return Group(name, Problem.ask("p", "q", "a", "v"), rollouts, born=0)


MIXED = group("g", rollout("g/0", (3, [7, 8]), (4, [9])), rollout("g/1", (4, [6]), prompt=(5,)))


def test_current_loss_covers_the_tokens_of_this_version_only():
    batch = pack([MIXED], [[0.5, -0.5]], version=4)
    assert batch.tokens.tolist() == [1, 2, 7, 8, 9, 5, 6]
    assert batch.cu_seqlens.tolist() == [0, 5, 7]
    assert batch.loss_mask.tolist() == [False, False, False, False, True, False, True]
    assert batch.current.tolist() == batch.loss_mask.tolist()
    assert batch.sampler_logprobs.tolist() == [0, 0, -0.5, -0.5, -0.5, 0, -0.5]
    assert batch.advantages.tolist() == [0.5, -0.5]
    assert batch.positions.tolist() == [4, 6]
    assert batch.sequence.tolist() == [0, 1]
    assert batch.loss_lengths.tolist() == [1, 1]
    assert (batch.groups, batch.total) == (("g", "g"), 2)


def test_all_loss_covers_every_response_token():
    batch = pack([MIXED], [[0.5, -0.5]], version=4, loss_on="all")
    assert batch.loss_mask.tolist() == [False, False, True, True, True, False, True]
    assert batch.current.tolist() == [False, False, False, False, True, False, True]
    assert batch.loss_lengths.tolist() == [3, 1]


def test_what_is_left_out_is_counted():
    stale = rollout("a/0", (2, [7, 8]))
    fresh = [rollout(f"a/{j}", (4, [7])) for j in (1, 2)]
    kept = group("a", stale, *fresh, rollout("a/3", (4, [1])))
    small = group("b", rollout("b/0", (4, [7])), rollout("b/1", (4, [7])))
    batch = pack([kept, small], [[0.1, 0.2, -0.3, None], [None, None]], version=4)
    assert vars(batch.counts) == {"sequences": 2, "masked": 1, "stale": 1, "small_groups": 2}
    assert len(batch) == 2
    everything = pack([kept], [[0.1, 0.2, -0.3, None]], version=4, loss_on="all")
    assert everything.counts.stale == 0
    assert len(everything) == 3


OLD = group(
    "o",
    rollout("o/0", (1, [7]), (2, [8]), (3, [9, 10]), (4, [11])),
    rollout("o/1", (2, [6, 6])),
    rollout("o/2", (1, [5])),
    rollout("o/3", (5, [4])),
)


@pytest.mark.parametrize(
    ("window", "loss"),
    [(0, [[0, 0, 0, 0, 1]]), (1, [[0, 0, 1, 1, 1]]), (2, [[0, 1, 1, 1, 1], [1, 1]]), (3, [[1] * 5, [1, 1], [1]])],
)
def test_a_window_of_versions_carries_loss_and_only_the_present_one_is_comparable(window, loss):
    batch = pack([OLD], [[0.1, 0.2, 0.3, 0.4]], 4, "current", window)
    found = batch.loss_mask.split(batch.lengths.tolist())
    assert [each[2:].tolist() for each in found] == [[bool(value) for value in row] for row in loss]
    assert not any(each[:2].any() for each in found), "prompts"
    current = batch.current.split(batch.lengths.tolist())
    assert [each.sum().item() for each in current] == [1] + [0] * (len(loss) - 1)
    assert (batch.counts.sequences, batch.counts.stale) == (len(loss), 4 - len(loss))
    assert [has_loss(each, 4, "current", window) for each in OLD.rollouts] == [
        True,
        window >= 2,
        window >= 3,
        False,  # of a version that is yet to come
    ]


def test_the_age_of_what_is_trained_on_is_counted():
    metrics = pack([OLD], [[0.1, 0.2, 0.3, 0.4]], 4, "current", 2).ages.metrics()
    assert metrics == {
        "staleness/loss_mean": pytest.approx((0 * 1 + 1 * 2 + 2 * 3) / 6),
        "staleness/loss_max": 2,
        "staleness/oldest_mean": (3 + 2) / 2,  # of o/0 and o/1; the oldest token of o/0 carries no loss
        "staleness/oldest_max": 3,
        "staleness/share/0": pytest.approx(1 / 6),
        "staleness/share/1": pytest.approx(2 / 6),
        "staleness/share/2": pytest.approx(3 / 6),
    }
    assert unknown(metrics) == []
    assert pack([OLD], [[None] * 4], 4).ages.metrics() == {}


def test_a_rollout_has_loss_exactly_if_one_of_its_tokens_has():
    fed = Segment(4, (3, 3), by=Author.ENVIRONMENT)
    empty = Rollout("e/0", Prompt((1,)), (Segment(4, (), ()), fed), StopReason.LENGTH)
    assert not has_loss(empty, 4, "all")
    assert not has_loss(empty, 4, "current", 3)
    answered = replace(empty, segments=(*empty.segments, Segment(4, (9,), (-0.1,))))
    batch = pack([group("e", empty, answered)], [[0.1, -0.1]], 4, "all")
    assert batch.loss_mask.tolist() == [False, False, False, True]
    assert batch.counts.stale == 1


def test_a_run_that_overlaps_strictly_on_policy_has_no_window():
    assert window_of(None) == 0
    assert window_of(OverlapConfig(max_staleness=3)) == 3
    assert window_of(OverlapConfig(mode="on_policy")) == 0


def test_an_empty_batch_has_no_minibatches():
    batch = pack([], [], version=0)
    assert len(batch) == 0
    assert batch.minibatches(3, seed=1) == []
    responseless = pack([group("a", rollout("a/0"), rollout("a/1"))], [[0.0, 0.0]], version=0, loss_on="all")
    assert responseless.counts.stale == 2


def test_a_promptless_rollout_is_refused():
    with pytest.raises(ValueError, match="a/0 has no prompt"):
        pack([group("a", rollout("a/0", (0, [1]), prompt=()))], [[0.1]], version=0)


def sequences(batch):
    """What identifies each sequence, as plain values."""
    bounds = batch.cu_seqlens.tolist()
    return [
        (tuple(batch.tokens[a:b].tolist()), tuple(batch.loss_mask[a:b].tolist()), batch.advantages[i].item())
        for i, (a, b) in enumerate(pairwise(bounds))
    ]


def test_minibatches_partition_the_batch_and_depend_on_the_seed():
    batch = make_batch()
    parts = batch.minibatches(5, seed=(7, 1))
    assert sorted(len(part) for part in parts) == [4, 5, 5, 5, 5]
    assert [part.total for part in parts] == [len(part) for part in parts]
    assert sorted(s for part in parts for s in sequences(part)) == sorted(sequences(batch))
    again, other = batch.minibatches(5, seed=(7, 1)), batch.minibatches(5, seed=(7, 2))
    assert [sequences(a) for a in parts] == [sequences(b) for b in again]
    assert [sequences(a) for a in parts] != [sequences(b) for b in other]
    assert len(batch.minibatches(1000, seed=0)) == len(batch)


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 80))
def test_token_split_is_a_sorted_partition_within_the_limit(lengths, limit):
    parts = split_by_tokens(lengths, limit)
    flat = [index for part in parts for index in part]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[i] for i in flat] == sorted(lengths)
    assert all(sum(lengths[i] for i in part) <= limit or len(part) == 1 for part in parts)


def test_micro_batches_keep_the_total_and_the_reference_with_its_tokens():
    batch = make_batch()
    marked = replace(batch, reference_logprobs=batch.tokens[batch.loss_mask].float())
    parts = marked.micro_batches(100)
    assert len(parts) > 3
    assert {part.total for part in parts} == {len(batch)}
    for part in parts:
        assert torch.equal(part.reference_logprobs, part.tokens[part.loss_mask].float())


def test_demonstrations_carry_loss_on_responses_only():
    batch = pack_demonstrations([((1, 2), (3,)), ((4,), (5, 6))])
    assert batch.tokens.tolist() == [1, 2, 3, 4, 5, 6]
    assert batch.loss_mask.tolist() == [False, False, True, False, True, True]
    with pytest.raises(ValueError, match="demonstration 1"):
        pack_demonstrations([((1,), (2,)), ((), (3,))])


def test_cumulative():
    assert cumulative([3, 1, 2]).tolist() == [0, 3, 4, 6]
    assert cumulative([]).tolist() == [0]
    assert cumulative([2]).dtype == torch.int32
