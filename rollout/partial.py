"""Partial rollouts: budgets, continuation and stop rules [2501.12599 §2.6.2]. Pure functions.

A rollout is continued by sending its prompt and all tokens so far to an engine again. How far a stretch may go follows
from the rollout itself, so a stretch cut short by a dead engine or a killed driver is simply asked for once more: the
tokens that arrived count against the same budget.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from rewards.score import Score
from rollout.config import RolloutConfig
from rollout.engine import Delta, Request, Sampling
from rollout.evidence.config import MergingConfig
from rollout.evidence.windows import Evidence
from rollout.seeds import seed_of
from rollout.tape import Tape
from rollout.types import Group, Rollout, Segment, StopReason, WeightVersion


def repeats(token_ids: Sequence[int], min_pattern: int, max_pattern: int, count: int) -> bool:
    """Return True when the sequence ends in ``count`` copies of one pattern of ``min_pattern``..``max_pattern`` tokens.

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
    """Return the sampling of training rollouts: the full distribution at ``config.temperature``."""
    pattern = config.repetition
    return Sampling(
        temperature=config.temperature,
        stop_token_ids=tuple(stop_token_ids),
        repetition_min_pattern=pattern.min_pattern if pattern else 0,
        repetition_max_pattern=pattern.max_pattern if pattern else 0,
        repetition_count=pattern.count if pattern else 0,
    )


@dataclass(frozen=True)
class Stretch:
    """The work that one call to the pool may add to a rollout."""

    request: Request
    """The prompt with all tokens so far; its budget is 0 when only the environment may still write."""
    awaiting: bool = False
    """The policy has ended its turn, and the environment has not answered yet."""


@dataclass(frozen=True)
class Growth:
    """The tokens and the end that a rollout got from one call."""

    segments: Sequence[Segment] = ()
    stop: StopReason | None = None
    failures: int = 0
    """Engine failures on the way; the tokens before each are kept."""
    score: Score | None = None
    """The environment's verdict, where it gave one."""


def room(rollout: Rollout, config: RolloutConfig, context: int) -> int:
    """Return the number of tokens that the policy may still draw, over all iterations: the total cap and the context
    bound it.
    """
    return min(config.max_tokens - rollout.length, context - rollout.prompt.longest - rollout.size)


def budget(rollout: Rollout, version: WeightVersion, config: RolloutConfig, context: int) -> int:
    """Return the number of tokens that the rollout may still get under ``version``; 0 when finished or its stretch is
    used up.
    """
    if rollout.finished:
        return 0
    drawn = sum(len(segment) for segment in rollout.segments if segment.version == version and segment.sampled)
    return max(0, min(config.segment_tokens - drawn, room(rollout, config, context)))


def awaiting(rollout: Rollout, turn_ends: Collection[int]) -> bool:
    """Return True while the environment is to speak: the last token is the policy's, and ends its turn.

    ``turn_ends``: the end tokens where there is an environment, none where an end token ends the rollout.
    """
    if rollout.finished or not rollout.segments or not turn_ends:
        return False
    last = rollout.segments[-1]
    return last.sampled and int(last.token_ids[-1]) in turn_ends


def next_stretch(
    rollout: Rollout,
    version: WeightVersion,
    config: RolloutConfig,
    context: int,
    sampling: Sampling,
    seed: int,
    turn_ends: Collection[int] = (),
    beyond: bool = False,
) -> Stretch | None:
    """Return the rollout's next stretch under ``version``; ``None`` when there is nothing left to add.

    ``seed`` is the run's. The request's seed belongs to the rollout, not to the stretch: engines combine it with the
    position of each token, so cutting a response differently does not change its randomness. See ``awaiting`` for
    ``turn_ends``. ``beyond``: one more, where that of ``version`` is used up.
    """
    waits = awaiting(rollout, turn_ends)
    tokens = budget(rollout, version, config, context)
    if beyond and not tokens and not rollout.finished:
        tokens = max(0, min(config.segment_tokens, room(rollout, config, context)))
    if not waits and tokens < 1:
        return None
    prompt = rollout.prompt.followed_by(*(segment.token_ids for segment in rollout.segments))
    evidence = None
    if prompt.windows:
        evidence = Evidence(prompt.windows, config.evidence or MergingConfig()).after(rollout.pointers)
    seeds = seed_of(seed, rollout.id)
    return Stretch(Request(rollout.id, prompt, tokens, sampling, seeds, evidence, begun=rollout.size), waits)


@dataclass
class _Progress:
    """The sum of the deltas of one rollout."""

    tape: Tape = field(default_factory=Tape)
    stop: StopReason | None = None
    failures: int = 0
    score: Score | None = None

    def add(self, delta: Delta) -> None:
        self.tape.add(delta.version, delta.token_ids, delta.logprobs, delta.by, delta.pointers)
        self.stop = delta.stop or self.stop
        self.failures += bool(delta.error)
        self.score = delta.score or self.score

    def growth(self) -> Growth:
        return Growth(self.tape.segments(), self.stop, self.failures, self.score)


def fold(
    groups: Sequence[Group],
    deltas: Iterable[Delta],
    version: WeightVersion,
    config: RolloutConfig,
    context: int,
    turn_ends: Collection[int] = (),
) -> list[Group]:
    """Return ``groups`` after the progress in ``deltas``, with every stop rule applied as of ``version``.

    Groups older than ``config.max_age`` versions are force-finished first; progress on them is not expected. Folding in
    one go or piece by piece gives the same groups. See ``awaiting`` for ``turn_ends``. Raises ``ValueError`` for
    progress on an unknown or finished rollout.
    """
    progress: dict[str, _Progress] = {}
    for delta in deltas:
        progress.setdefault(delta.key, _Progress()).add(delta)
    folded = []
    for group in groups:
        old, rollouts = too_old(group, version, config), []
        for rollout in group.rollouts:
            found = progress.pop(rollout.id, None)
            if old and not rollout.finished:
                rollouts.append(replace(rollout, stop=StopReason.ABORTED))
            else:
                rollouts.append(grown(rollout, found.growth() if found else Growth(), config, context, turn_ends))
        folded.append(group.with_rollouts(rollouts))
    if progress:
        raise ValueError(f"progress on rollouts that are not in flight: {', '.join(sorted(progress)[:5])}")
    return folded


def too_old(group: Group, version: WeightVersion, config: RolloutConfig) -> bool:
    """Return whether a group's unfinished rollouts are given up."""
    return version - group.born > config.max_age


def grown(
    rollout: Rollout, growth: Growth, config: RolloutConfig, context: int, turn_ends: Collection[int] = ()
) -> Rollout:
    """Return ``rollout`` with what it has got since, and with the stop rules applied. See ``awaiting`` for
    ``turn_ends``.
    """
    if growth.segments or growth.failures or growth.stop:
        rollout = replace(rollout.append(growth.segments, None), failures=rollout.failures + growth.failures)
    if rollout.finished:
        return rollout
    stop = growth.stop or _stop_of(rollout, config, context, turn_ends)
    return replace(rollout, stop=stop, score=growth.score, judged=growth.score is not None) if stop else rollout


def _stop_of(rollout: Rollout, config: RolloutConfig, context: int, turn_ends: Collection[int]) -> StopReason | None:
    """Return why an unfinished rollout ends now, by the rules that need the whole response; ``None``: it goes on."""
    if not awaiting(rollout, turn_ends):
        if room(rollout, config, context) < 1:
            return StopReason.LENGTH
        pattern = config.repetition
        if pattern:
            # An engine sees one stretch; a pattern may lie across the seam of two.
            tail = rollout.tail(pattern.max_pattern * pattern.count).tolist()
            if repeats(tail, pattern.min_pattern, pattern.max_pattern, pattern.count):
                return StopReason.REPETITION
    return StopReason.ABORTED if rollout.failures >= config.max_failures else None


def tokens_saved(rollout: Rollout, config: RolloutConfig) -> int:
    """Return the number of tokens not drawn because a repetitive rollout was stopped before the total cap."""
    return config.max_tokens - rollout.length if rollout.stop is StopReason.REPETITION else 0
