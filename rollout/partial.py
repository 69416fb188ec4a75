"""Partial rollouts: budgets, continuation and stop rules [2501.12599 §2.6.2]. Pure functions.

A rollout is continued by sending its prompt and all tokens so far to an engine again. How far a stretch may go follows
from the rollout itself, so a stretch cut short by a dead engine or a killed driver is simply asked for once more: the
tokens that arrived count against the same budget.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from rollout.config import RolloutConfig
from rollout.engine import Delta, Request, Sampling
from rollout.seeds import seed_of
from rollout.types import Group, Rollout, Segment, StopReason, WeightVersion


def repeats(token_ids: Sequence[int], min_pattern: int, max_pattern: int, count: int) -> bool:
    """True when the sequence ends in ``count`` copies of one pattern of ``min_pattern``..``max_pattern`` tokens.

    The same decision as vLLM's ``repetition_detection``; ``max_pattern`` 0 or ``count`` below 2 never repeats.
    """
    if max_pattern <= 0 or count < 2:
        return False
    for size in range(max(min_pattern, 1), max_pattern + 1):
        span = size * (count - 1)
        if size + span > len(token_ids):
            return False
        # A tail of period ``size``: each token equals the one ``size`` before it.
        if all(token_ids[-i] == token_ids[-i - size] for i in range(1, span + 1)):
            return True
    return False


def training_sampling(config: RolloutConfig, stop_token_ids: Sequence[int]) -> Sampling:
    """How training rollouts are drawn: the full distribution at ``config.temperature``."""
    pattern = config.repetition
    return Sampling(
        temperature=config.temperature,
        stop_token_ids=tuple(stop_token_ids),
        repetition_min_pattern=pattern.min_pattern if pattern else 0,
        repetition_max_pattern=pattern.max_pattern if pattern else 0,
        repetition_count=pattern.count if pattern else 0,
    )


def room(rollout: Rollout, config: RolloutConfig, context: int) -> int:
    """Tokens that the rollout may still grow by, over all iterations: the total cap and the context bound it."""
    return min(config.max_tokens, context - len(rollout.prompt_ids)) - rollout.length


def budget(rollout: Rollout, version: WeightVersion, config: RolloutConfig, context: int) -> int:
    """Tokens that the rollout may still be given under ``version``; 0 when finished or its stretch is used up."""
    if rollout.finished:
        return 0
    drawn = sum(len(segment) for segment in rollout.segments if segment.version == version)
    return max(0, min(config.segment_tokens - drawn, room(rollout, config, context)))


def next_request(
    rollout: Rollout, version: WeightVersion, config: RolloutConfig, context: int, sampling: Sampling, seed: int
) -> Request | None:
    """The rollout's next stretch under ``version``; ``None`` when there is nothing left to draw.

    ``seed`` is the run's. The request's seed belongs to the rollout, not to the stretch: engines combine it with the
    position of each token, so cutting a response differently does not change its randomness.
    """
    tokens = budget(rollout, version, config, context)
    if tokens < 1:
        return None
    return Request(rollout.id, rollout.prompt_ids + rollout.token_ids, tokens, sampling, seed_of(seed, rollout.id))


def fold(
    groups: Sequence[Group], deltas: Iterable[Delta], version: WeightVersion, config: RolloutConfig, context: int
) -> list[Group]:
    """``groups`` after the progress in ``deltas``, with every stop rule applied as of ``version``.

    Groups older than ``config.max_age`` versions are force-finished first; progress on them is not expected. Folding in
    one go or piece by piece gives the same groups. Raises ``ValueError`` for progress on an unknown or finished
    rollout.
    """
    progress: dict[str, list[Delta]] = defaultdict(list)
    for delta in deltas:
        progress[delta.key].append(delta)
    folded = []
    for group in groups:
        too_old = version - group.born > config.max_age
        rollouts = [
            _fold_one(rollout, progress.pop(rollout.id, ()), too_old, config, context) for rollout in group.rollouts
        ]
        folded.append(group.with_rollouts(rollouts))
    if progress:
        raise ValueError(f"progress on rollouts that are not in flight: {', '.join(sorted(progress)[:5])}")
    return folded


def _fold_one(rollout: Rollout, deltas: Sequence[Delta], too_old: bool, config: RolloutConfig, context: int) -> Rollout:
    if too_old and not rollout.finished:
        return replace(rollout, stop=StopReason.ABORTED)
    stop = None
    failures = 0
    runs: list[tuple[WeightVersion, list[int], list[float]]] = []
    for delta in deltas:
        if not runs or runs[-1][0] != delta.version:
            runs.append((delta.version, [], []))
        runs[-1][1].extend(delta.token_ids)
        runs[-1][2].extend(delta.logprobs)
        stop = delta.stop or stop
        failures += bool(delta.error)
    for version, tokens, logprobs in runs:
        rollout = rollout.append(Segment(version, tuple(tokens), tuple(logprobs)), None)
    rollout = replace(rollout, failures=rollout.failures + failures)
    return rollout if rollout.finished else replace(rollout, stop=stop or _stop_of(rollout, config, context))


def _stop_of(rollout: Rollout, config: RolloutConfig, context: int) -> StopReason | None:
    """Why an unfinished rollout ends now, by the rules that need the whole response; ``None``: it goes on."""
    if room(rollout, config, context) < 1:
        return StopReason.LENGTH
    pattern = config.repetition
    # An engine sees one stretch; a pattern may lie across the seam of two.
    if pattern and repeats(rollout.token_ids, pattern.min_pattern, pattern.max_pattern, pattern.count):
        return StopReason.REPETITION
    if rollout.failures >= config.max_failures:
        return StopReason.ABORTED
    return None


def tokens_saved(rollout: Rollout, config: RolloutConfig) -> int:
    """Tokens not drawn because a repetitive rollout was stopped before the total cap."""
    return config.max_tokens - rollout.length if rollout.stop is StopReason.REPETITION else 0
