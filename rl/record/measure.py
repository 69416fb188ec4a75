"""An iteration's row of metrics, from its groups, its training and its times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import psutil

from rl.learner.learner import IterationStats
from rl.record.metrics import IterationMetrics, of_rollouts
from rl.rewarding import ScoredGroup
from rollout.config import RolloutConfig
from rollout.partial import tokens_saved
from rollout.pool.pool import PublishReport
from rollout.types import Group, StopReason, WeightVersion


def drawn_under(groups: Sequence[Group], version: WeightVersion) -> int:
    """Response tokens of ``groups`` that were sampled under ``version``."""
    return sum(
        len(segment)
        for group in groups
        for rollout in group.rollouts
        for segment in rollout.segments
        if segment.version == version and segment.sampled
    )


def iteration_metrics(
    version: WeightVersion,
    groups: Sequence[Group],
    replayed: int,
    scored: Sequence[ScoredGroup],
    advantages: Mapping[str, float],
    stats: IterationStats,
    seconds: Mapping[str, float],
    published: PublishReport,
    length_weight: float,
    config: RolloutConfig,
) -> IterationMetrics:
    """The complete row of iteration ``version``.

    ``groups`` are all groups after sampling, ``scored`` the finished ones among them; ``advantages`` by rollout id.
    ``replayed`` tokens come from an earlier process's journal and took no time in this one.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    finished = [rollout for item in scored for rollout in item.group.rollouts]
    sampled = drawn_under(groups, version)
    last = stats.steps[-1] if stats.steps else None
    generate, train = seconds.get("generate", 0.0), seconds.get("train", 0.0)
    return replace(
        of_rollouts(version, scored, advantages, length_weight),
        rollouts_unfinished=sum(not rollout.finished for rollout in rollouts),
        rollouts_resumed=sum(len(r.drawn_under) > 1 and version in r.drawn_under for r in rollouts),
        rollouts_dropped_old=sum(r.stop is StopReason.ABORTED and r.failures < config.max_failures for r in finished),
        tokens_sampled=sampled,
        tokens_trained=stats.tokens,
        tokens_saved_by_repetition=sum(tokens_saved(rollout, config) for rollout in finished),
        logratio_mean=last.logratio_mean if last else None,
        logratio_std=last.logratio_std if last else None,
        logratio_max=last.logratio_max if last else None,
        logratio_per_token=last.logratio_per_token if last else None,
        gap_mean=stats.gap_mean,
        gap_max=stats.gap_max,
        probe_max_gap=published.max_gap,
        probe_mean_gap=published.mean_gap,
        importance_mean=stats.importance_mean,
        importance_ess=stats.importance_ess,
        entropy=last.entropy if last else None,
        grad_norm=sum(step.grad_norm for step in stats.steps) / len(stats.steps) if stats.steps else None,
        update_rms_muon=stats.update_rms.get("muon"),
        update_rms_adamw=stats.update_rms.get("adamw"),
        steps_skipped=stats.skipped,
        attention_density=stats.density,
        attention_full_share=stats.full_share,
        lr=last.lr if last else None,
        seconds=dict(seconds),
        time_total=sum(seconds.values()),
        throughput_sampled=(sampled - replayed) / generate if generate and sampled > replayed else None,
        throughput_trained=stats.tokens / train if train else None,
        memory_rss=psutil.Process().memory_info().rss,
    )
