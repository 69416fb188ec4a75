"""The k1.5 loop, synchronous: publish -> sample one segment -> score -> train -> checkpoint [2501.12599 §2.3.2, §2.6].

Everything it touches comes in as an argument, so the same function runs with Ray actors on a cluster, or with a fake
engine and no Ray in a test.
"""

from __future__ import annotations

from rl.config import RunConfig
from rl.iteration import (
    Trained,
    admit,
    advantages_of,
    conclude,
    evaluation_due,
    iterations,
    publish,
    score,
    trained_on,
)
from rl.parts import Parts
from rl.record.log import Timer
from rl.record.measure import drawn_under
from rl.state.checkpoint import RunState
from rollout.engine import Delta
from rollout.partial import fold
from rollout.types import Group, split


def train(config: RunConfig, state: RunState, parts: Parts) -> RunState:
    """Run iterations from ``state`` on, sampling and training in turn; returns the state after the last one.

    See ``iterations``.
    """
    return iterations(config, state, parts, lambda state, i, timer: iterate(config, state, i, parts, timer))


def iterate(config: RunConfig, state: RunState, i: int, parts: Parts, timer: Timer) -> RunState:
    """One iteration, in turn [2501.12599 §2.3.2]; see ``Iterate``."""
    evaluation = None
    parts.watch.stage("publish weights")
    with timer("publish"), parts.stopper.interruptible():
        published = publish(parts.policy, parts.pool, i, parts.probe())
    with timer("eval"), parts.stopper.interruptible():
        if evaluation_due(config, i):
            evaluation = parts.evaluate(i)

    waiting = [*state.unfinished, *admit(config.rollout.groups - len(state.unfinished), i, config, parts)]
    with timer("generate"), parts.stopper.interruptible():
        groups, replayed = sample(waiting, i, config, parts)
    scored = score(i, parts, timer, None)
    values = [advantages_of(item, parts.objective) for item in scored]
    with timer("train"):
        parts.watch.stage("train")
        stats = parts.policy.train([item.group for item in scored], values, i)

    weights = trained_on(config, scored, values, i)
    with timer("store"):
        parts.store(i, scored, weights)
    _, unfinished = split(groups)
    tokens, sampling_s = drawn_under(groups, i), timer.seconds["generate"]
    done = Trained(groups, tokens, replayed, sampling_s, scored, weights, stats, published, evaluation)
    return conclude(state, i, done, unfinished, config, parts, timer)


def sample(groups: list[Group], i: int, config: RunConfig, parts: Parts) -> tuple[list[Group], int]:
    """At most one new segment per rollout; what an earlier process drew of this iteration is taken from the journal.

    A group goes to the rewarder as soon as it is finished, while others are still drawn. Returns the groups and the
    number of tokens that came from the journal.
    """
    ends = parts.pool.stop_token_ids if parts.episodes is not None else ()
    groups = fold(groups, parts.journal.open(i), i, config.rollout, config.engine.max_model_len, ends)
    replayed = drawn_under(groups, i)
    parts.watch.stage("generate", sum(not rollout.finished for group in groups for rollout in group.rollouts))

    def progress(deltas: list[Delta]) -> None:
        with parts.stopper.sheltered():  # later tokens are kept at the end, and must not follow on a gap
            parts.journal.append(deltas)
        for error in dict.fromkeys(delta.error for delta in deltas if delta.error):
            parts.watch.warn(f"{sum(delta.error == error for delta in deltas)} rollouts cut short: {error}")
        through = sum(delta.done and not delta.error for delta in deltas)
        parts.watch.advance(through, sum(len(delta.token_ids) for delta in deltas))

    def finished(group: Group) -> None:
        parts.rewarder.submit(group)

    return parts.pool.extend(groups, i, progress, finished, parts.episodes), replayed
