"""An iteration's row of metrics, from its rollouts, its training and its times. Pure functions; names: ``METRICS``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import psutil

from rewards.stats import bootstrap_ci, mean_ci
from rl.learner.stats import IterationStats, known
from rl.record.log import Evaluation
from rl.record.metrics import Row
from rl.record.timeline import engine_number
from rl.rewarding import ScoredGroup
from rollout.config import RolloutConfig
from rollout.environments.episodes import Counts
from rollout.partial import tokens_saved
from rollout.pool.fleet import PoolStats, PublishReport
from rollout.timeline import ENGINE, JUDGE, LEARNER
from rollout.types import Group, Rollout, StopReason, WeightVersion


@dataclass(frozen=True)
class Iteration:
    """The data of one iteration, from which its metrics are computed."""

    version: WeightVersion
    """Version of the weights; also the iteration's number."""
    groups: Sequence[Group]
    """All groups after sampling."""
    tokens: int
    """Tokens of the policy that came in during the iteration."""
    replayed: int
    """Those of them that come from an earlier process's journal and took no time in this one."""
    sampling_s: float
    """Wall time in which the others were drawn."""
    scored: Sequence[ScoredGroup]
    """The finished groups."""
    advantages: Mapping[str, float]
    """Advantages of the rollouts that entered the loss, by id."""
    length_weight: float
    """w of the length reward."""
    stats: IterationStats
    published: PublishReport
    engines: PoolStats
    """Statistics of the engines after sampling."""
    evaluation: Evaluation | None
    """Held-out evaluation of the weights that the iteration starts from, if there was one."""
    overlong: int
    """Problems left out so far because they do not fit."""
    episodes: Counts | None
    """What went on in the environment since this process began; ``None`` without one."""
    seconds: Mapping[str, float]
    """Wall time by phase."""
    idle: Mapping[str, float]
    """Idle share of each lane since the iteration before; empty where no timeline is recorded."""


def drawn_under(groups: Sequence[Group], version: WeightVersion) -> int:
    """Response tokens of ``groups`` that were sampled under ``version``."""
    return sum(
        len(segment)
        for group in groups
        for rollout in group.rollouts
        for segment in rollout.segments
        if segment.version == version and segment.sampled
    )


def measure(it: Iteration, config: RolloutConfig) -> Row:
    """Return the complete row of an iteration."""
    return {
        "iteration": it.version,
        "version": it.version,
        **of_rollouts(it.version, it.scored, it.advantages, it.length_weight),
        **of_sampling(it, config),
        **it.stats.metrics,
        **of_engines(it.published, it.engines),
        **of_evaluation(it.evaluation),
        **of_environment(it.episodes, it.scored),
        **of_time(it),
        **of_idle(it.idle),
        "problems/overlong": it.overlong,
        "memory/rss": psutil.Process().memory_info().rss,
    }


def of_rollouts(
    version: WeightVersion, scored: Sequence[ScoredGroup], advantages: Mapping[str, float], length_weight: float
) -> Row:
    """Return the metrics of the finished groups; without any there are counts of 0 and no rates or means."""
    rollouts = [rollout for item in scored for rollout in item.group.rollouts]
    graded = [_graded(item) for item in scored]
    stops = {reason: sum(r.stop is reason for r in rollouts) for reason in StopReason}
    return {
        **_correctness(graded),
        **_agreement(rollouts),
        **_rewards(scored, length_weight),
        **_lengths(scored),
        **_versions(version, rollouts),
        **{f"stop/{reason.value}": count for reason, count in stops.items()},
        "rollouts/finished": len(rollouts),
        "rollouts/ungradable": len(rollouts) - sum(map(len, graded)) - stops[StopReason.ABORTED],
        "groups/finished": len(scored),
        "groups/trainable": sum(any(r.id in advantages for r in item.group.rollouts) for item in scored),
        "groups/all_right": sum(bool(row) and all(r.correct for r in row) for row in graded),
        "groups/flat": sum(bool(row) and len({r.score and r.score.reward for r in row}) == 1 for row in graded),
        "groups/all_wrong": sum(bool(row) and not any(r.correct for r in row) for row in graded),
    }


def of_sampling(it: Iteration, config: RolloutConfig) -> Row:
    """Return the metrics of all groups, finished or not."""
    rollouts = [rollout for group in it.groups for rollout in group.rollouts]
    finished = [rollout for item in it.scored for rollout in item.group.rollouts]
    return {
        "rollouts/unfinished": sum(not rollout.finished for rollout in rollouts),
        "rollouts/resumed": sum(len(r.drawn_under) > 1 and it.version in r.drawn_under for r in rollouts),
        "rollouts/dropped_old": sum(
            r.stop is StopReason.ABORTED and r.failures < config.max_failures for r in finished
        ),
        "tokens/sampled": it.tokens,
        "tokens/saved_by_repetition": sum(tokens_saved(rollout, config) for rollout in finished),
    }


def of_engines(published: PublishReport, engines: PoolStats) -> Row:
    """Return the metrics of the publish that opened the iteration, and of the engines."""
    return {
        "probe/max_gap": published.max_gap,
        "probe/mean_gap": published.mean_gap,
        "publish/seconds": published.seconds,
        "publish/bytes": published.bytes,
        "engines/alive": len(engines.engines),
        "engines/failures": engines.failures,
        "engines/given_up": engines.given_up,
        **known({"hybrid/sleep_s": engines.sleep_s, "hybrid/wake_s": engines.wake_s}),
    }


def of_evaluation(evaluation: Evaluation | None) -> Row:
    """Return the held-out evaluation at the start of the iteration, if there was one."""
    if evaluation is None:
        return {}
    accuracy = evaluation.accuracy
    return {
        "eval/accuracy": accuracy.mean,
        "eval/low": accuracy.low,
        "eval/high": accuracy.high,
        **({"eval/reward": evaluation.reward.mean} if evaluation.reward else {}),
        "eval/n": accuracy.n,
        "eval/tokens": evaluation.tokens.mean,
    }


def of_environment(counts: Counts | None, scored: Sequence[ScoredGroup]) -> Row:
    """What the environment did, if there is one."""
    if counts is None:
        return {}
    rollouts = [rollout for item in scored for rollout in item.group.rollouts]
    row: Row = {f"environment/{name}": value for name, value in asdict(counts).items()}
    if rollouts:
        turns = [rollout.turns for rollout in rollouts]
        fed = sum(rollout.size - rollout.length for rollout in rollouts)
        row |= {"turns/mean": float(np.mean(turns)), "turns/max": max(turns), "tokens/fed": fed}
    return row


def of_time(it: Iteration) -> Row:
    """Return the seconds of the phases that took place, and tokens per second."""
    row = {f"time/{phase}": spent for phase, spent in it.seconds.items()}
    row["time/total"] = sum(it.seconds.values())
    fresh = it.tokens - it.replayed
    if fresh > 0 and it.sampling_s:
        row["throughput/sampled"] = fresh / it.sampling_s
    if train := it.seconds.get("train"):
        row["throughput/trained"] = it.stats.metrics["tokens/trained"] / train
    return row


def of_idle(shares: Mapping[str, float]) -> Row:
    """Return the idle shares of the learner and, as means, of the engines of policy and judge, as far as they are on
    record.
    """
    row: Row = {}
    for key, name in {"idle/engines": ENGINE, "idle/judges": JUDGE}.items():
        if found := [share for lane, share in shares.items() if engine_number(lane, name) is not None]:
            row[key] = float(np.mean(found))
    return row | ({"idle/learner": shares[LEARNER]} if LEARNER in shares else {})


def _graded(item: ScoredGroup) -> list[Rollout]:
    """Return rollouts with a verdict; aborted ones never have one."""
    pairs = zip(item.group.rollouts, item.rewards, strict=True)
    return [rollout for rollout, reward in pairs if reward is not None and rollout.stop is not StopReason.ABORTED]


def _agreement(rollouts: Sequence[Rollout]) -> Row:
    """Return how reward model and rule compare on the rollouts that both have judged; nothing without any."""
    pairs = [
        (bool(parts["agrees"]), bool(parts["rule"]))
        for rollout in rollouts
        if rollout.score and {"rule", "model", "agrees"} <= (parts := rollout.score.parts).keys()
    ]
    if not pairs:
        return {}
    return {
        "reward/compared": len(pairs),
        "reward/agreement": sum(agrees for agrees, _ in pairs) / len(pairs),
        "reward/false_right": sum(not agrees and not rule for agrees, rule in pairs) / len(pairs),
        "reward/false_wrong": sum(not agrees and rule for agrees, rule in pairs) / len(pairs),
    }


def _correctness(graded: Sequence[Sequence[Rollout]]) -> Row:
    """Return accuracy with its interval, and the means of the parts of the score; ``graded`` by group."""
    if not any(graded):
        return {}
    accuracy = mean_ci([[float(r.correct) for r in row] for row in graded])
    parts: dict[str, list[float]] = {}
    for rollout in (rollout for row in graded for rollout in row):
        for name, value in (rollout.score.parts if rollout.score else {}).items():
            parts.setdefault(name, []).append(value)
    return {
        "accuracy": accuracy.mean,
        "accuracy/low": accuracy.low,
        "accuracy/high": accuracy.high,
        **{f"reward/part/{name}": float(np.mean(values)) for name, values in sorted(parts.items())},
    }


def _rewards(scored: Sequence[ScoredGroup], length_weight: float) -> Row:
    """Means over the rollouts that have a reward."""
    pairs = [
        (reward, length)
        for item in scored
        for reward, length in zip(item.rewards, item.length_rewards, strict=True)
        if reward is not None
    ]
    row: Row = {"length_weight": length_weight}
    if pairs:
        rewards, lengths = zip(*pairs, strict=True)
        row |= {"reward/mean": float(np.mean(rewards)), "reward/length_mean": length_weight * float(np.mean(lengths))}
    return row


def _lengths(scored: Sequence[ScoredGroup]) -> Row:
    lengths = [[rollout.length for rollout in item.group.rollouts] for item in scored]
    if not lengths:
        return {}
    mean, flat = bootstrap_ci(lengths), [length for row in lengths for length in row]
    return {
        "length/mean": mean.mean,
        "length/low": mean.low,
        "length/high": mean.high,
        "length/median": float(np.median(flat)),
        "length/max": max(flat),
    }


def _versions(version: WeightVersion, rollouts: Sequence[Rollout]) -> Row:
    """How many weight versions drew a rollout, and how old its tokens are."""
    if not rollouts:
        return {}
    counts = [len(rollout.drawn_under) for rollout in rollouts]
    row: Row = {"rollouts/versions_mean": float(np.mean(counts)), "rollouts/versions_max": max(counts)}
    if tokens := sum(rollout.length for rollout in rollouts):
        lag = sum((version - s.version) * len(s) for rollout in rollouts for s in rollout.segments if s.sampled)
        row["staleness/mean"] = lag / tokens
    return row
