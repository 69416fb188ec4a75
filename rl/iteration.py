"""The steps of an iteration that every loop takes, and the run of iterations with its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from rl.config import RunConfig
from rl.diversity import observe
from rl.learner.stats import IterationStats
from rl.learner.window import has_loss, window_of
from rl.objectives.protocol import Objective
from rl.parts import Parts, Policy
from rl.record.log import Evaluation, Timer
from rl.record.measure import Iteration, measure
from rl.record.metrics import Row
from rl.rewarding import ScoredGroup, failures
from rl.state import checkpoint
from rl.state.checkpoint import RunState, Totals, Writer
from rl.stop import Interrupted
from rollout import timeline
from rollout.pool.fleet import PublishReport
from rollout.pool.pool import Pool
from rollout.types import Group, Problem, Prompt, Rollout, WeightVersion

MOST_REASONS = 3
"""Reasons for which responses were ungradable that an iteration tells, the commonest first."""

Iterate = Callable[[RunState, int, Timer], RunState]
"""One iteration: ``(state before, its number, timer)`` -> state after. ``Interrupted`` leaves the learner untouched.
The timer has the seconds of the checkpoint of the state before, if this process wrote one."""


def iterations(config: RunConfig, state: RunState, parts: Parts, iterate: Iterate) -> RunState:
    """Run iterations from ``state`` on; returns the state after the last one.

    A learner may go on while it writes a checkpoint, which is finished after the iteration in which that was done: at
    the latest before the next one is begun, and when this returns or raises. Only then go the journals that every kept
    checkpoint already contains. On a stop signal it checkpoints and raises ``Interrupted``, or ``Halted`` where the run
    ends itself; tokens of an iteration cut short stay in its journal.
    """
    keep, drop_before = config.checkpoint.keep, parts.journal.drop_before
    with Writer(parts.checkpoints, parts.policy, keep, parts.watch.warn, drop_before) as writer:
        return _iterations(config, state, parts, iterate, writer)


def _iterations(config: RunConfig, state: RunState, parts: Parts, iterate: Iterate, writer: Writer) -> RunState:
    saved = state.iteration if checkpoint.available(parts.checkpoints) else -1
    timer = Timer()
    timeline.lap()  # idle time counts from here on
    for i in range(state.iteration, config.iterations):
        try:
            after = iterate(state, i, timer)
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
            raise parts.stopper.why or Interrupted(f"stopped after iteration {i}")
    return replace(state, totals=spend(state.totals, timer.seconds))


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


def evaluation_due(config: RunConfig, i: int) -> bool:
    """Return whether an iteration begins with a held-out evaluation."""
    return i > 0 and config.eval.every > 0 and i % config.eval.every == 0


def admit(count: int, i: int, config: RunConfig, parts: Parts) -> list[Group]:
    """Begin what goes on beside iteration ``i``; draw its problems, and return a fresh group for each."""
    parts.rewarder.begin(i)
    problems = parts.sampler.draw(max(0, count))
    parts.journal.drawn(i, [problem.id for problem in problems])
    return new_groups(problems, i, config.rollout.k, parts.render)


def score(i: int, parts: Parts, timer: Timer, chosen: Collection[str] | None) -> list[ScoredGroup]:
    """Return finished groups with their rewards, when the grader is done with them; ``chosen``: see ``Rewarder``."""
    parts.watch.stage("score")
    with timer("score"):
        with parts.stopper.interruptible():  # a reward of the user's own may take its time
            scored = parts.rewarder.collect(i, chosen)
        tell(scored, parts)
    return scored


def tell(scored: Sequence[ScoredGroup], parts: Parts) -> None:
    """Tell why responses are ungradable, and the sampler how its problems went."""
    for reason, count in failures(scored).most_common(MOST_REASONS):
        parts.watch.warn(f"{count} responses ungradable and left out of training: {reason}")
    parts.sampler.update({s.group.problem.id: rate for s in scored if (rate := s.success_rate) is not None})


def trained_on(
    config: RunConfig, scored: Sequence[ScoredGroup], values: Sequence[Sequence[float | None]], i: int
) -> dict[str, float]:
    """Return the advantages of the rollouts that enter the loss of iteration ``i``, by id."""
    loss_on, window = config.rollout.loss_on, window_of(config.overlap)
    return {
        rollout.id: value
        for item, row in zip(scored, values, strict=True)
        for rollout, value in zip(item.group.rollouts, row, strict=True)
        if value is not None and has_loss(rollout, i, loss_on, window)
    }


def advantages_of(item: ScoredGroup, objective: Objective) -> list[float | None]:
    """What the objective makes of one group's k rollouts, on their total rewards [2501.12599 eq. 3, §2.3.3]."""
    return objective.advantages(item.rewards, [rollout.correct for rollout in item.group.rollouts])


@dataclass(frozen=True)
class Trained:
    """What an iteration has done by the time that it is recorded."""

    groups: Sequence[Group]
    """All groups that were sampled, finished or not."""
    tokens: int
    """Tokens of the policy that came in during the iteration."""
    replayed: int
    """Those of them that an earlier process had drawn."""
    sampling_s: float
    """Wall time in which the others were drawn."""
    scored: Sequence[ScoredGroup]
    """The groups that were trained on."""
    advantages: Mapping[str, float]
    """Advantages of the rollouts that entered the loss, by id."""
    stats: IterationStats
    published: PublishReport
    evaluation: Evaluation | None


def conclude(
    state: RunState, i: int, done: Trained, unfinished: Sequence[Group], config: RunConfig, parts: Parts, timer: Timer
) -> RunState:
    """Write the row of an iteration, and return the state after it; ``unfinished``: the groups that are carried on."""
    diversity: Row = {}
    moments = None
    if config.diversity is not None:
        with timer("diversity"):
            diversity, moments = observe(done.scored, state.moments)
    iteration = Iteration(
        version=i,
        groups=done.groups,
        tokens=done.tokens,
        replayed=done.replayed,
        sampling_s=done.sampling_s,
        scored=done.scored,
        advantages=done.advantages,
        length_weight=parts.rewarder.length_weight(i),
        stats=done.stats,
        published=done.published,
        engines=parts.pool.stats(),
        evaluation=done.evaluation,
        overlong=len(parts.sampler.overlong),
        episodes=parts.episodes.counts if parts.episodes is not None else None,
        seconds=timer.seconds,
        idle=timeline.lap(i),
    )
    audited = parts.rewarder.audited()  # before the counts, which it adds to
    row = parts.log.write(i, measure(iteration, config.rollout) | diversity | audited | parts.rewarder.counts())
    parts.watch.iteration(row)
    parts.inspect(row)
    totals = add_up(state.totals, done, timer)
    return RunState(i + 1, tuple(unfinished), parts.sampler.state_dict(), totals, moments)


def add_up(totals: Totals, done: Trained, timer: Timer) -> Totals:
    """Return the run's totals after one more iteration."""
    finished = [rollout for item in done.scored for rollout in item.group.rollouts]
    return replace(
        spend(totals, timer.seconds),
        rollouts=totals.rollouts + len(finished),
        resumed=totals.resumed + sum(len(rollout.drawn_under) > 1 for rollout in finished),
        tokens=totals.tokens + done.tokens,
        max_gap=max(totals.max_gap, done.published.max_gap),
    )


def spend(totals: Totals, seconds: Mapping[str, float]) -> Totals:
    """Return the run's totals with more wall time, by phase."""
    phases = [*totals.seconds, *(phase for phase in seconds if phase not in totals.seconds)]
    return replace(totals, seconds={p: totals.seconds.get(p, 0.0) + seconds.get(p, 0.0) for p in phases})
