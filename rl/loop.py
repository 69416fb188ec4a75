"""The k1.5 loop, synchronous: publish -> sample one segment -> score -> train -> checkpoint [2501.12599 §2.3.2, §2.6].

Everything it touches comes in as an argument, so the same function runs with Ray actors on a cluster, or with a fake
engine and no Ray in a test.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from rl.config import RunConfig
from rl.learner.stats import IterationStats
from rl.objectives.protocol import Objective
from rl.record.log import Evaluation, MetricsLog, Timer
from rl.record.measure import Iteration, drawn_under, measure
from rl.record.metrics import Row
from rl.rewarding import Rewarder, ScoredGroup, failures
from rl.state import checkpoint
from rl.state.checkpoint import RunState, Saves, Totals, Writer
from rl.state.journal import Journal
from rl.stop import Interrupted, Stopper
from rollout.engine import Delta, WeightUpdate
from rollout.environments.episodes import Episodes
from rollout.partial import fold
from rollout.pool.fleet import PublishReport
from rollout.pool.pool import Pool
from rollout.progress import Progress
from rollout.types import Group, Problem, Prompt, Rollout, WeightVersion, split

MOST_REASONS = 3
"""Reasons for which responses were ungradable that an iteration tells, the commonest first."""


class Policy(Saves, Protocol):
    """The learner as the loop sees it: in this process, or a proxy to Ray actors."""

    def publish(self, version: WeightVersion) -> WeightUpdate:
        """Put the current weights where engines can fetch them."""

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probs at temperature 1 for the parity probe; [n][len - 1], nats."""

    def train(
        self, groups: Sequence[Group], advantages: Sequence[Sequence[float | None]], version: WeightVersion
    ) -> IterationStats:
        """Train one iteration: freeze the reference, reset the optimiser, a few steps on the objective. [groups][k]."""


class Sampler(Protocol):
    """Chooses problems [2501.12599 §2.3.4]."""

    @property
    def overlong(self) -> Collection[int]:
        """Indices of problems that it leaves out because they do not fit the context."""

    def draw(self, n: int) -> list[Problem]:
        """Return n different problems."""

    def update(self, success: dict[str, float]) -> None:
        """Take the success rate of the newest finished group of each problem, by id."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON values."""


class Watcher(Progress, Protocol):
    """The live view, as the loop uses it."""

    def iteration(self, row: Row) -> None:
        """Show a complete iteration; ``row`` has its metrics by name."""


@dataclass(frozen=True)
class Parts:
    """The parts that the loop works with."""

    policy: Policy
    pool: Pool
    sampler: Sampler
    rewarder: Rewarder
    objective: Objective
    """Turns a group's rewards into advantages; the learner has the same one."""
    render: Callable[[Problem], Prompt]
    episodes: Episodes | None
    """The rollouts' environment; ``None``: an end token ends the response."""
    probe: Callable[[], list[list[int]]]
    """Token sequences on which engine and learner must agree after each publish."""
    evaluate: Callable[[int], Evaluation]
    """Held-out evaluation at the start of an iteration, under the weights just published."""
    journal: Journal
    log: MetricsLog
    store: Callable[[int, Sequence[ScoredGroup], Mapping[str, float]], None]
    """Writes an iteration's rollouts: iteration, groups, advantage by rollout id."""
    inspect: Callable[[Row], None]
    """Looks at each iteration for signs that the run cannot work."""
    watch: Watcher
    stopper: Stopper
    checkpoints: Path


def publish(policy: Policy, pool: Pool, version: WeightVersion, probe: list[list[int]]) -> PublishReport:
    """Put the new weights into every engine; raises ``ParityError`` when engine and learner then disagree (invariant
    1).
    """
    return pool.publish(policy.publish(version), probe, policy.score(probe))


def new_groups(problems: Sequence[Problem], iteration: int, k: int, render: Callable[[Problem], Prompt]) -> list[Group]:
    """Return fresh groups of k empty rollouts each; ids are unique within the run and sort by age."""
    groups = []
    for index, problem in enumerate(problems):
        name = f"{iteration:06d}.{index:04d}"
        prompt = render(problem)
        rollouts = tuple(Rollout(id=f"{name}/{j}", prompt=prompt) for j in range(k))
        groups.append(Group(id=name, problem=problem, rollouts=rollouts, born=iteration))
    return groups


def train(config: RunConfig, state: RunState, parts: Parts) -> RunState:
    """Run iterations from ``state`` on; returns the state after the last one.

    A learner of many ranks goes on while it writes a checkpoint, which is finished after the iteration in which that
    was done: at the latest before the next one is begun, and when this returns or raises. Only then go the journals
    that every kept checkpoint already contains. On a stop signal it checkpoints and raises ``Interrupted``; tokens of
    an iteration cut short stay in its journal.
    """
    keep, drop_before = config.checkpoint.keep, parts.journal.drop_before
    with Writer(parts.checkpoints, parts.policy, keep, parts.watch.warn, drop_before) as writer:
        return _train(config, state, parts, writer)


def _train(config: RunConfig, state: RunState, parts: Parts, writer: Writer) -> RunState:
    saved = state.iteration if checkpoint.available(parts.checkpoints) else -1
    timer = Timer()
    for i in range(state.iteration, config.iterations):
        try:
            after = iterate(config, state, i, parts, timer)
        except Interrupted:
            if saved != state.iteration:
                parts.watch.stage("checkpoint")
                writer.begin(state)
            raise
        state = after
        last = state.iteration == config.iterations
        timer = Timer()  # of the next iteration, whose starting state is what is saved: its row comes after the file
        if last or parts.stopper.requested or state.iteration % config.checkpoint.every == 0:
            parts.watch.stage("checkpoint")
            with timer("checkpoint"):
                writer.begin(state)
                if last:
                    writer.finish()
            saved = state.iteration
        elif writer.pending is not None:
            with timer("checkpoint"):
                writer.settle()
        if parts.stopper.requested and not last:
            raise Interrupted(f"stopped after iteration {i}")
    return replace(state, totals=spend(state.totals, timer.seconds))


def iterate(config: RunConfig, state: RunState, i: int, parts: Parts, timer: Timer) -> RunState:
    """One iteration [2501.12599 §2.3.2]; state before -> state after it. ``Interrupted`` leaves the learner untouched.

    ``timer`` has the seconds of the checkpoint of ``state``, if this process wrote one.
    """
    evaluation = None
    parts.watch.stage("publish weights")
    with timer("publish"), parts.stopper.interruptible():
        published = publish(parts.policy, parts.pool, i, parts.probe())
    with timer("eval"), parts.stopper.interruptible():
        if i > 0 and config.eval.every and i % config.eval.every == 0:
            evaluation = parts.evaluate(i)

    unfinished = list(state.unfinished)
    problems = parts.sampler.draw(max(0, config.rollout.groups - len(unfinished)))
    parts.journal.drawn(i, [problem.id for problem in problems])
    fresh = new_groups(problems, i, config.rollout.k, parts.render)
    with timer("generate"), parts.stopper.interruptible():
        groups, replayed = sample(unfinished + fresh, i, config, parts)
    _, unfinished = split(groups)

    parts.watch.stage("score")
    with timer("score"):
        with parts.stopper.interruptible():  # a reward of the user's own may take its time
            scored = parts.rewarder.collect()
        for reason, count in failures(scored).most_common(MOST_REASONS):
            parts.watch.warn(f"{count} responses ungradable and left out of training: {reason}")
        parts.sampler.update({s.group.problem.id: rate for s in scored if (rate := s.success_rate) is not None})
    values = [advantages_of(item, parts.objective) for item in scored]
    with timer("train"):
        parts.watch.stage("train")
        stats = parts.policy.train([item.group for item in scored], values, i)

    by_rollout = {
        rollout.id: value
        for item, row in zip(scored, values, strict=True)
        for rollout, value in zip(item.group.rollouts, row, strict=True)
        if value is not None and (config.rollout.loss_on == "all" or i in rollout.drawn_under)
    }
    parts.store(i, scored, by_rollout)
    done = Iteration(
        version=i,
        groups=groups,
        replayed=replayed,
        scored=scored,
        advantages=by_rollout,
        length_weight=parts.rewarder.length_weight(i),
        stats=stats,
        published=published,
        engines=parts.pool.stats(),
        evaluation=evaluation,
        overlong=len(parts.sampler.overlong),
        episodes=parts.episodes.counts if parts.episodes is not None else None,
        seconds=timer.seconds,
    )
    row = parts.log.write(i, measure(done, config.rollout) | parts.rewarder.counts())
    parts.watch.iteration(row)
    parts.inspect(row)
    totals = add_up(state.totals, scored, groups, published, timer, i)
    return RunState(i + 1, tuple(unfinished), parts.sampler.state_dict(), totals)


def advantages_of(item: ScoredGroup, objective: Objective) -> list[float | None]:
    """What the objective makes of one group's k rollouts, on their total rewards [2501.12599 eq. 3, §2.3.3]."""
    return objective.advantages(item.rewards, [rollout.correct for rollout in item.group.rollouts])


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
        parts.journal.append(deltas)
        for error in dict.fromkeys(delta.error for delta in deltas if delta.error):
            parts.watch.warn(f"{sum(delta.error == error for delta in deltas)} rollouts cut short: {error}")
        through = sum(delta.done and not delta.error for delta in deltas)
        parts.watch.advance(through, sum(len(delta.token_ids) for delta in deltas))

    def finished(group: Group) -> None:
        parts.rewarder.submit(group, i)

    return parts.pool.extend(groups, i, progress, finished, parts.episodes), replayed


def add_up(
    totals: Totals,
    scored: Sequence[ScoredGroup],
    groups: Sequence[Group],
    published: PublishReport,
    timer: Timer,
    version: WeightVersion,
) -> Totals:
    """Return the run's totals after one more iteration."""
    finished = [rollout for item in scored for rollout in item.group.rollouts]
    return replace(
        spend(totals, timer.seconds),
        rollouts=totals.rollouts + len(finished),
        resumed=totals.resumed + sum(len(rollout.drawn_under) > 1 for rollout in finished),
        tokens=totals.tokens + drawn_under(groups, version),
        max_gap=max(totals.max_gap, published.max_gap),
    )


def spend(totals: Totals, seconds: Mapping[str, float]) -> Totals:
    """Return the run's totals with more wall time, by phase."""
    phases = [*totals.seconds, *(phase for phase in seconds if phase not in totals.seconds)]
    return replace(totals, seconds={p: totals.seconds.get(p, 0.0) + seconds.get(p, 0.0) for p in phases})
