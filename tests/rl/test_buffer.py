"""The buffer of an overlapped run: what it holds follows from the deltas alone, and from their order."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from factories import problem, rollout
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.buffer import Buffer, Rules, oldest
from rollout.config import RepetitionConfig, RolloutConfig
from rollout.engine import Delta
from rollout.partial import fold, next_stretch, training_sampling
from rollout.types import Group, Prompt, Rollout, StopReason

EOS = 9
CONFIG = RolloutConfig(groups=2, k=2, segment_tokens=6, max_tokens=16, max_age=2, max_failures=2, repetition=None)


def rules(**changes: Any) -> Rules:
    config = CONFIG.model_copy(update=changes)
    return Rules(config, 64, training_sampling(config, (EOS,)), 3)


def groups(count: int = 3, born: int = 0) -> list[Group]:
    return [
        Group(
            f"{born:06d}.{g:04d}",
            problem(g),
            tuple(Rollout(f"{born:06d}.{g:04d}/{j}", Prompt((1, g))) for j in (0, 1)),
            born,
        )
        for g in range(count)
    ]


def tokens(key: str, version: int, count: int, done: bool = False, stop: StopReason | None = None) -> Delta:
    drawn = [2 + (position * 3 + version) % 5 for position in range(count)]
    return Delta(key, drawn, [-0.5] * count, version, done, stop)


def eos(key: str, version: int = 0, count: int = 3) -> Delta:
    return tokens(key, version, count, True, StopReason.EOS)


def flying(buffer: Buffer, version: int = 0) -> list[str]:
    return [stretch.request.key for stretch in buffer.stretches(version)]


def keys(group: Group) -> list[str]:
    return [rollout.id for rollout in group.rollouts]


def test_the_first_stretches_are_those_of_the_loop_in_turn_in_the_same_order() -> None:
    made, found = groups(), Buffer(rules(), groups())
    sampling = training_sampling(CONFIG, (EOS,))
    assert found.stretches(0) == [
        next_stretch(rollout, 0, CONFIG, 64, sampling, 3) for group in made for rollout in group.rollouts
    ]
    assert found.stretches(0) == [], "all are under way"
    assert found.under_way == 6


def test_a_batch_in_turn_waits_for_all_and_takes_what_is_finished() -> None:
    made, buffer = groups(2), Buffer(rules(), groups(2))
    one, two, three, four = flying(buffer)
    for delta in (eos(one), eos(two), eos(three)):
        buffer.receive([delta])
        assert buffer.stretch(delta.key, 0) is None
        assert buffer.batch(0, 0, 2, ()) is None, "the last one is under way"
    buffer.receive([tokens(four, 0, 6, True)])
    assert buffer.stretch(four, 0) is None, "its stretch is used up"
    assert buffer.batch(0, 0, 2, {made[0].id}) is None, "it is not graded"
    assert buffer.batch(0, 0, 2, ()) == [made[0].id]
    buffer.remove([made[0].id])
    assert [stretch.request.key for stretch in buffer.stretches(1)] == [four]


def test_with_staleness_the_oldest_finished_groups_are_enough() -> None:
    buffer = Buffer(rules(), groups(4))
    names = list(dict.fromkeys(key.split("/")[0] for key in flying(buffer)))
    for name in (names[3], names[1], names[2]):
        for j in (0, 1):
            buffer.receive([eos(f"{name}/{j}")])
            buffer.stretch(f"{name}/{j}", 0)
    assert buffer.batch(0, 1, 5, ()) is None
    assert buffer.batch(0, 1, 4, ()) == names[1:], "three quarters are enough"
    assert buffer.batch(0, 1, 4, (), 1.0) is None, "but not where all are asked for"
    assert buffer.batch(0, 1, 2, ()) == [names[1], names[2]], "oldest first, whichever was first finished"
    assert buffer.batch(0, 1, 2, {names[1]}) == [names[2], names[3]], "a slow grader holds nobody up"


def test_what_is_due_is_waited_for_and_all_of_it_is_trained() -> None:
    """Nothing older than S versions is trained a version later."""
    buffer = Buffer(rules(), groups(4))
    flying(buffer)
    names = [group.id for group in groups(4)]
    for name in names[1:]:
        for j in (0, 1):
            buffer.receive([eos(f"{name}/{j}")])
            buffer.stretch(f"{name}/{j}", 0)
    buffer.receive([tokens(f"{names[0]}/0", 0, 2), tokens(f"{names[0]}/1", 0, 2)])
    assert buffer.batch(0, 1, 2, ()) == names[1:3]
    assert buffer.batch(1, 1, 2, ()) is None, "two rollouts with tokens of version 0 are under way"
    for j in (0, 1):
        buffer.receive([eos(f"{names[0]}/{j}", 1)])
        buffer.stretch(f"{names[0]}/{j}", 1)
    assert buffer.batch(1, 1, 2, {names[3]}) is None, "due, and not graded"
    assert buffer.batch(1, 1, 2, ()) == names, "all four are due: more than the size of a batch"


def test_a_response_longer_than_a_stretch_is_waited_for_within_each_of_them_alone() -> None:
    """A stretch ends at most S versions after it began; how many there were before does not matter."""
    buffer = Buffer(replace(rules(), beyond=True), groups(3))
    flying(buffer)
    names = [group.id for group in groups(3)]
    for key in (f"{name}/{j}" for name in names[1:] for j in (0, 1)):
        buffer.receive([eos(key)])
        buffer.stretch(key, 0)
    one, two = (f"{names[0]}/{j}" for j in (0, 1))
    buffer.receive([tokens(one, 0, 4), tokens(two, 0, 6, True)])
    beyond = buffer.stretch(two, 0)
    assert beyond is not None, "it goes on without a pause"
    assert buffer.batch(1, 1, 2, ()) is None, "one is within the stretch of version 0"
    buffer.receive([tokens(one, 1, 2, True)])
    assert buffer.stretch(one, 1) is not None, "its next stretch begins under version 1"
    assert buffer.batch(1, 1, 2, ()) == names[1:], "nobody waits for what is beyond its stretch"
    assert buffer.batch(2, 1, 2, ()) is None, "one is within the stretch of version 1"


def test_a_short_sibling_of_a_response_beyond_its_stretch_is_older_than_the_bound() -> None:
    """The bound is that of groups none of whose responses is longer than a stretch."""
    buffer = Buffer(replace(rules(), beyond=True), groups(1))
    short, long = flying(buffer)
    buffer.receive([eos(short), tokens(long, 0, 6, True)])
    assert buffer.stretch(long, 0) is not None
    for version in (1, 2):
        buffer.admit(groups(1, born=version))
        for key in flying(buffer, version):
            buffer.receive([eos(key, version)])
            buffer.stretch(key, version)
        assert buffer.batch(version, 1, 1, ()) == [groups(1, version)[0].id], "nobody waits for what is beyond"
        buffer.remove([groups(1, version)[0].id])
    buffer.receive([eos(long, 3)])
    (group,) = buffer.finished
    assert buffer.batch(3, 1, 1, ()) == [group.id]
    assert [3 - min(rollout.drawn_under) for rollout in group.rollouts] == [3, 3], "S is 1"
    assert group.rollouts[0].length == 3 < CONFIG.segment_tokens


def test_what_another_process_began_is_as_old_as_its_first_token() -> None:
    """Within its first stretch; one that has gone on beyond it is waited for within the present one."""
    before = Buffer(rules(), groups(1))
    one, two = flying(before)
    before.receive([tokens(one, 0, 4), tokens(two, 0, 6, True)])
    after = Buffer(replace(rules(), beyond=True), before.snapshot())
    assert flying(after, 1) == [one, two]
    assert after.batch(1, 1, 1, ()) is None, "the first is due"
    after.receive([eos(one, 1)])
    after.receive([tokens(two, 1, 6, True)])
    after.stretch(one, 1)
    assert after.stretch(two, 1) is not None
    after.receive([eos(two, 1)])
    assert after.batch(1, 1, 1, ()) == [groups(1)[0].id]


def test_what_cannot_move_any_more_is_not_waited_for() -> None:
    buffer = Buffer(rules(), groups(2))
    for key in flying(buffer):
        buffer.receive([tokens(key, 0, 6, True)])
        buffer.stretch(key, 0)
    assert buffer.batch(0, 1, 2, ()) == []
    assert len(buffer.stretches(1)) == 4, "but it goes on under the next weights"


def test_a_rollout_whose_request_ends_early_under_new_weights_goes_on_at_once() -> None:
    """Weights came in flight: its budget began anew."""
    buffer = Buffer(rules(), groups(1))
    key, _ = flying(buffer)
    buffer.receive([tokens(key, 0, 4), tokens(key, 1, 2, True)])
    stretch = buffer.stretch(key, 1)
    assert stretch is not None
    assert (len(stretch.request.prompt), stretch.request.max_new_tokens) == (2 + 6, 4)


def test_groups_above_the_age_cap_are_given_up_and_keep_their_tokens() -> None:
    buffer = Buffer(rules(), groups(1))
    one, two = flying(buffer)
    buffer.receive([eos(one), tokens(two, 0, 4)])
    assert buffer.expire(2) == ([], [])
    dropped, finished = buffer.expire(3)
    assert dropped == [two]
    assert [(r.stop, r.length) for r in finished[0].rollouts] == [(StopReason.EOS, 3), (StopReason.ABORTED, 4)]
    assert not buffer.wants(tokens(two, 0, 1))


def test_an_environment_is_told_when_nobody_waits_for_a_rollout_any_more() -> None:
    """An engine may end a turn of it in the moment in which it is given up."""
    buffer = Buffer(rules(), groups(1))
    one, two = flying(buffer)
    found = buffer.asked_about(two)
    assert found is not None
    assert (found[0], found[1].id) == (groups(1)[0].problem, two)
    buffer.receive([eos(one)])
    buffer.expire(3)
    assert (buffer.asked_about(one), buffer.asked_about(two)) == (None, None)


def test_a_rollout_that_failed_too_often_is_given_up() -> None:
    buffer = Buffer(rules(), groups(1))
    key, other = flying(buffer)
    broken = replace(tokens(key, 0, 1, True), error="engine 0 failed")
    assert buffer.receive([broken]) == []
    assert buffer.receive([eos(other)]) == []
    (group,) = buffer.receive([broken])
    assert [(r.stop, r.failures) for r in group.rollouts] == [(StopReason.ABORTED, 2), (StopReason.EOS, 0)]


def test_progress_on_what_is_not_there_is_refused() -> None:
    buffer = Buffer(rules(), groups(1))
    with pytest.raises(ValueError, match="not in flight"):
        buffer.receive([tokens("elsewhere/0", 0, 1)])
    with pytest.raises(ValueError, match="not finished"):
        buffer.remove([groups(1)[0].id])


def test_the_age_of_a_group_is_that_of_its_oldest_token() -> None:
    group = groups(1, born=4)[0]
    assert oldest(group) == 4
    drawn = [rollout("a", [(6, 2)]), rollout("b", [(5, 2), (7, 1)])]
    assert oldest(group.with_rollouts(drawn)) == 5


@st.composite
def histories(draw: st.DrawFn) -> list[Delta]:
    """Deltas of two groups under versions that never fall, as engines hand them out."""
    found, version = [], 0
    open_ = [key for group in groups(2) for key in keys(group)]
    lengths = dict.fromkeys(open_, 0)
    for _ in range(draw(st.integers(0, 25))):
        if not open_:
            break
        version += draw(st.booleans())
        key = draw(st.sampled_from(open_))
        count = draw(st.integers(0, min(4, CONFIG.max_tokens - lengths[key])))
        lengths[key] += count
        full = lengths[key] == CONFIG.max_tokens
        how = draw(st.sampled_from(["on", "on", "rest", "eos"])) if not full else "rest"
        found.append(tokens(key, version, count, how != "on", StopReason.EOS if how == "eos" else None))
        if how == "eos" or full:
            open_.remove(key)
    return found


@settings(deadline=None)
@given(histories(), st.lists(st.integers(0, 25), max_size=4), st.booleans())
def test_a_buffer_follows_from_its_deltas_however_they_are_cut(
    deltas: list[Delta], cuts: list[int], repetition: bool
) -> None:
    """Received at once, or one by one and over restarts from a snapshot: the same groups."""
    pattern = RepetitionConfig(min_pattern=1, max_pattern=2, count=2) if repetition else None
    how = rules(max_age=100, repetition=pattern)
    whole, pieces = Buffer(how, groups(2)), Buffer(how, groups(2))
    bounds = [0, *sorted(cut for cut in cuts if cut < len(deltas)), len(deltas)]
    for start, end in pairwise(bounds):
        whole.receive(delta for delta in deltas[start:end] if whole.wants(delta))
        for delta in deltas[start:end]:
            pieces.receive([delta] if pieces.wants(delta) else [])
        pieces = Buffer(how, pieces.snapshot())
    assert whole.snapshot() == pieces.snapshot()


@settings(deadline=None)
@given(histories())
def test_it_grows_rollouts_as_the_loop_in_turn_does(deltas: list[Delta]) -> None:
    buffer = Buffer(rules(max_age=100), groups(2))
    buffer.receive(deltas)
    assert list(buffer.snapshot()) == fold(groups(2), deltas, 0, buffer.rules.config, 64)
