"""What one iteration reports: the names in ``metrics.jsonl``, their units, and how they follow from the rollouts.

A value that does not exist in an iteration (no finished rollout, no evaluation) is ``None`` and is written as null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from rewards.stats import bootstrap_ci, mean_ci
from rl.rewarding import ScoredGroup
from rollout.types import Rollout, StopReason

PHASES = ("generate", "score", "train", "publish", "eval", "checkpoint")
"""Phases of an iteration whose wall time is recorded, as ``time/<phase>``."""

Value = float | int | str | None


def _as(key: str, default: Any = None) -> Any:
    return field(default=default, metadata={"key": key})


@dataclass(frozen=True)
class IterationMetrics:
    """One row of ``metrics.jsonl``. Rates are in [0, 1], times in seconds, log-probs and entropies in nats."""

    iteration: int = _as("iteration", 0)
    """RL iteration, from 0."""
    version: int = _as("version", 0)
    """Weight version that sampled this iteration's tokens."""

    accuracy: float | None = _as("accuracy")
    """Mean correctness of the finished, graded training rollouts."""
    accuracy_low: float | None = _as("accuracy/low")
    """Lower end of its 95 % interval, groups as clusters."""
    accuracy_high: float | None = _as("accuracy/high")
    """Upper end of its 95 % interval."""
    reward_mean: float | None = _as("reward/mean")
    """Mean training reward (correctness, length reward and penalties) of the unmasked rollouts."""
    reward_length_mean: float | None = _as("reward/length_mean")
    """Mean length reward of the same rollouts, weight included [2501.12599 §2.3.3]."""
    reward_parts: Mapping[str, float] = field(default_factory=dict)
    """Mean of each named part of the verifier's score, over rollouts that have it; rows ``reward/part/<name>``."""
    length_weight: float | None = _as("length_weight")
    """Weight w of the length reward in this iteration; 0 during its warm-up [2501.12599 §2.3.3]."""

    length_mean: float | None = _as("length/mean")
    """Mean response tokens of finished rollouts."""
    length_low: float | None = _as("length/low")
    """Lower end of the mean's 95 % interval (bootstrap over groups)."""
    length_high: float | None = _as("length/high")
    """Upper end of the mean's 95 % interval."""
    length_median: float | None = _as("length/median")
    """Median response tokens of finished rollouts."""
    length_max: int | None = _as("length/max")
    """Longest finished response, in tokens."""

    stop_eos: int = _as("stop/eos", 0)
    """Finished rollouts that ended by themselves."""
    stop_length: int = _as("stop/length", 0)
    """Finished rollouts cut at the total length cap."""
    stop_repetition: int = _as("stop/repetition", 0)
    """Finished rollouts stopped for repeating themselves [2501.12599 §2.6.2]."""
    stop_aborted: int = _as("stop/aborted", 0)
    """Rollouts given up (failures, age cap); masked."""

    rollouts_finished: int = _as("rollouts/finished", 0)
    """Rollouts of the groups that completed in this iteration."""
    rollouts_unfinished: int = _as("rollouts/unfinished", 0)
    """Rollouts that go to the replay buffer and continue later."""
    rollouts_resumed: int = _as("rollouts/resumed", 0)
    """Rollouts from the replay buffer that were continued in this iteration [2501.12599 §2.6.2]."""
    rollouts_ungradable: int = _as("rollouts/ungradable", 0)
    """Finished rollouts that the grader failed on (aborted ones not counted); masked, never reward 0."""
    rollouts_dropped_old: int = _as("rollouts/dropped_old", 0)
    """Rollouts force-finished because their group was older than the age cap."""
    rollouts_versions_mean: float | None = _as("rollouts/versions_mean")
    """Mean number of weight versions inside a finished rollout."""
    rollouts_versions_max: int | None = _as("rollouts/versions_max")
    """Most weight versions inside one finished rollout."""

    problems_overlong: int = _as("problems/overlong", 0)
    """Training problems left out so far because their prompts do not fit the context."""

    groups_finished: int = _as("groups/finished", 0)
    """Groups all of whose rollouts have stopped."""
    groups_trainable: int = _as("groups/trainable", 0)
    """Groups with at least one rollout that carried loss."""
    groups_all_right: int = _as("groups/all_right", 0)
    """Groups whose graded rollouts are all correct: no signal but length."""
    groups_all_wrong: int = _as("groups/all_wrong", 0)
    """Groups whose graded rollouts are all wrong."""

    tokens_sampled: int = _as("tokens/sampled", 0)
    """Response tokens drawn in this iteration."""
    tokens_trained: int = _as("tokens/trained", 0)
    """Response tokens that carried loss."""
    tokens_saved_by_repetition: int = _as("tokens/saved_by_repetition", 0)
    """Tokens up to the length cap that stopping repeated text left undrawn."""

    logratio_mean: float | None = _as("logratio/mean")
    """Mean over sequences of log pi / pi_i at the forward pass of the iteration's last step [2501.12599 eq. 3]."""
    logratio_std: float | None = _as("logratio/std")
    """Standard deviation over sequences."""
    logratio_max: float | None = _as("logratio/max")
    """Largest absolute value over sequences."""
    logratio_per_token: float | None = _as("logratio/per_token")
    """Mean absolute log-ratio per trained token."""
    gap_mean: float | None = _as("gap/mean")
    """Mean |engine - learner| log-prob over this iteration's sampled tokens."""
    gap_max: float | None = _as("gap/max")
    """Largest |engine - learner| log-prob over this iteration's sampled tokens."""
    probe_max_gap: float | None = _as("probe/max_gap")
    """Largest |engine - learner| log-prob of the parity probe after the publish (invariant 1)."""
    probe_mean_gap: float | None = _as("probe/mean_gap")
    """Mean |engine - learner| log-prob of the same probe; of the engine where it is largest."""
    importance_mean: float | None = _as("importance/mean")
    """Mean truncated importance weight of the trained tokens; only with ``learner.objective.importance``."""
    importance_ess: float | None = _as("importance/ess")
    """Effective sample size of these weights over their number."""
    entropy: float | None = _as("entropy")
    """Mean entropy of the policy's next-token distribution on trained tokens."""
    grad_norm: float | None = _as("grad_norm")
    """Mean global gradient norm before clipping, over the iteration's steps."""
    update_rms_muon: float | None = _as("update_rms/muon")
    """RMS of Muon's parameter update over the learning rate [2502.16982 §2.2]."""
    update_rms_adamw: float | None = _as("update_rms/adamw")
    """RMS of AdamW's parameter update over the learning rate."""
    steps_skipped: int = _as("steps/skipped", 0)
    """Optimiser steps skipped for NaN or infinite gradients (invariant 7)."""
    attention_density: float | None = _as("attention/density")
    """Share of full causal attention that was computed for the trained sequences, over all layers; only with
    block attention."""
    attention_full_share: float | None = _as("attention/full_share")
    """Share of their tokens that saw their whole past in block layers too, as early positions do; likewise."""
    lr: float | None = _as("lr")
    """Learning rate of the iteration's last step."""
    staleness_mean: float | None = _as("staleness/mean")
    """Mean over the finished rollouts' tokens of (current version - version that drew the token)."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall time by phase (see ``PHASES``), rows ``time/<phase>``."""
    time_total: float | None = _as("time/total")
    """Wall time of the whole iteration."""
    throughput_sampled: float | None = _as("throughput/sampled")
    """Tokens sampled by this process per second of the generate phase; ``None`` when all came from a journal."""
    throughput_trained: float | None = _as("throughput/trained")
    """Trained tokens per second of the train phase."""

    eval_accuracy: float | None = _as("eval/accuracy")
    """Held-out accuracy of the evaluation after this iteration, if there was one."""
    eval_low: float | None = _as("eval/low")
    """Lower end of its 95 % interval."""
    eval_high: float | None = _as("eval/high")
    """Upper end of its 95 % interval."""
    eval_n: int | None = _as("eval/n")
    """Held-out problems in it."""
    memory_rss: int | None = _as("memory/rss")
    """Resident memory of the driver process, in bytes."""

    def to_row(self) -> dict[str, Value]:
        """The row by metric name, in the order of the fields."""
        row: dict[str, Value] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "reward_parts":
                row |= {f"reward/part/{name}": part for name, part in value.items()}
            elif item.name == "seconds":
                row |= {f"time/{phase}": value.get(phase) for phase in PHASES}
            else:
                row[item.metadata["key"]] = value
        return row


def of_rollouts(
    version: int, scored: Sequence[ScoredGroup], advantages: Mapping[str, float], length_weight: float
) -> IterationMetrics:
    """The metrics that follow from an iteration's finished groups; complete them with ``dataclasses.replace``.

    ``version`` is the current one (and the iteration's number). ``advantages`` holds the rollouts that entered the
    loss, by id. ``length_weight`` is this iteration's w. No finished group is fine: rates and means are then ``None``.
    """
    rollouts = [rollout for item in scored for rollout in item.group.rollouts]
    graded = [_graded(item) for item in scored]
    accuracy = mean_ci([[float(r.correct) for r in row] for row in graded]) if any(graded) else None
    lengths = bootstrap_ci([[r.length for r in item.group.rollouts] for item in scored]) if rollouts else None
    rewards, length_rewards = _unmasked(scored)
    versions = [len(rollout.drawn_under) for rollout in rollouts]
    stops = {reason: sum(r.stop is reason for r in rollouts) for reason in StopReason}
    return IterationMetrics(
        iteration=version,
        version=version,
        accuracy=accuracy.mean if accuracy else None,
        accuracy_low=accuracy.low if accuracy else None,
        accuracy_high=accuracy.high if accuracy else None,
        reward_mean=_mean(rewards),
        reward_length_mean=_mean([length_weight * value for value in length_rewards]),
        reward_parts=_part_means([r for row in graded for r in row]),
        length_weight=length_weight,
        length_mean=lengths.mean if lengths else None,
        length_low=lengths.low if lengths else None,
        length_high=lengths.high if lengths else None,
        length_median=float(np.median([r.length for r in rollouts])) if rollouts else None,
        length_max=max((r.length for r in rollouts), default=None),
        stop_eos=stops[StopReason.EOS],
        stop_length=stops[StopReason.LENGTH],
        stop_repetition=stops[StopReason.REPETITION],
        stop_aborted=stops[StopReason.ABORTED],
        rollouts_finished=len(rollouts),
        rollouts_ungradable=len(rollouts) - sum(map(len, graded)) - stops[StopReason.ABORTED],
        rollouts_versions_mean=_mean(versions),
        rollouts_versions_max=max(versions, default=None),
        groups_finished=len(scored),
        groups_trainable=sum(any(r.id in advantages for r in item.group.rollouts) for item in scored),
        groups_all_right=sum(bool(row) and all(r.correct for r in row) for row in graded),
        groups_all_wrong=sum(bool(row) and not any(r.correct for r in row) for row in graded),
        staleness_mean=_staleness(version, rollouts),
    )


def _graded(item: ScoredGroup) -> list[Rollout]:
    """Rollouts with a verdict; aborted ones never have one."""
    pairs = zip(item.group.rollouts, item.rewards, strict=True)
    return [rollout for rollout, reward in pairs if reward is not None and rollout.stop is not StopReason.ABORTED]


def _unmasked(scored: Sequence[ScoredGroup]) -> tuple[list[float], list[float]]:
    """Rewards and unweighted length rewards of the rollouts that have a reward."""
    pairs = [
        (reward, length)
        for item in scored
        for reward, length in zip(item.rewards, item.length_rewards, strict=True)
        if reward is not None
    ]
    return [reward for reward, _ in pairs], [length for _, length in pairs]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _part_means(graded: Sequence[Rollout]) -> dict[str, float]:
    parts: dict[str, list[float]] = {}
    for rollout in graded:
        for name, value in (rollout.score.parts if rollout.score else {}).items():
            parts.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in sorted(parts.items())}


def _staleness(version: int, rollouts: Sequence[Rollout]) -> float | None:
    tokens = sum(rollout.length for rollout in rollouts)
    lag = sum((version - s.version) * len(s) for rollout in rollouts for s in rollout.segments if s.sampled)
    return lag / tokens if tokens else None
