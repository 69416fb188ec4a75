"""The words of k15: problems, segments, rollouts, groups.

Frozen dataclasses without tensors. Token ids are the truth: text is decoded for rewards and for people and is never
re-encoded into training data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from rewards.score import Score

WeightVersion = int
"""Number of learner updates (publishes) so far; version 0 is the model that the run started from."""


class StopReason(StrEnum):
    """Why a rollout ended. A rollout without one is unfinished and continues in a later iteration."""

    EOS = "eos"
    """The policy emitted an end token; it is the last token of the last segment."""
    LENGTH = "length"
    """The total length cap, or the context, was reached."""
    REPETITION = "repetition"
    """The engine saw the same pattern repeated and stopped early [2501.12599 §2.6.2]."""
    ABORTED = "aborted"
    """Given up: the rollout failed too often, or was older than the age cap. Masked, never reward 0."""


@dataclass(frozen=True)
class Problem:
    """One question with a checkable answer."""

    id: str
    """Unique within its source, stable across runs; names a problem in metrics, replay buffer and Parquet."""
    prompt: str
    """The question as the user would ask it, before any chat template."""
    answer: str
    """Reference answer in the verifier's own notation; never empty."""
    verifier: str
    """Name of the verifier that judges a response against ``answer`` (see ``rewards.verify``)."""
    source: str = ""
    """Where it comes from, e.g. ``gsm8k`` or ``arithmetic``."""
    difficulty: float | None = None
    """Higher is harder; the unit is the source's own (level, number of steps). ``None``: unknown."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the source (level, subject, tests); plain JSON values."""

    def __post_init__(self) -> None:
        for name in ("id", "prompt", "answer", "verifier"):
            if not getattr(self, name):
                raise ValueError(f"problem {self.id!r}: {name!r} is empty")


@dataclass(frozen=True)
class Segment:
    """Tokens drawn under one weight version: the unit of partial rollout."""

    version: WeightVersion
    """The weights that every token of this segment was sampled from."""
    token_ids: tuple[int, ...]
    """Sampled tokens in order; the end token included when the policy emitted one."""
    logprobs: tuple[float, ...]
    """Sampler log-probability of each token, in nats, at the sampling temperature. Same length as ``token_ids``."""

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.logprobs):
            raise ValueError(f"segment has {len(self.token_ids)} tokens but {len(self.logprobs)} log-probs")

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True)
class Rollout:
    """One response to a problem, possibly drawn in several iterations."""

    id: str
    """``<group id>/<j>`` with j in 0..k-1; unique within a run."""
    prompt_ids: tuple[int, ...]
    """The rendered prompt (template applied, generation prompt included)."""
    segments: tuple[Segment, ...] = ()
    """Versions never decrease."""
    stop: StopReason | None = None
    """``None`` while unfinished."""
    score: Score | None = None
    """Set once, when the rollout has finished and was graded."""
    failures: int = 0
    """How often an engine failed while serving it; the tokens it had drawn by then are kept."""

    def __post_init__(self) -> None:
        versions = [segment.version for segment in self.segments]
        if versions != sorted(versions):
            raise ValueError(f"rollout {self.id}: segment versions decrease: {versions}")

    @property
    def token_ids(self) -> tuple[int, ...]:
        """All response tokens, stitched."""
        return tuple(token for segment in self.segments for token in segment.token_ids)

    @property
    def logprobs(self) -> tuple[float, ...]:
        """Sampler log-probs of ``token_ids``."""
        return tuple(value for segment in self.segments for value in segment.logprobs)

    @property
    def versions(self) -> tuple[WeightVersion, ...]:
        """Weight version of each response token."""
        return tuple(segment.version for segment in self.segments for _ in segment.token_ids)

    @property
    def length(self) -> int:
        """Number of response tokens over all segments (the stitched length of [2501.12599 §2.3.3])."""
        return sum(len(segment) for segment in self.segments)

    @property
    def finished(self) -> bool:
        """True once a stop reason is set."""
        return self.stop is not None

    @property
    def correct(self) -> bool:
        """True when graded correct."""
        return self.score is not None and self.score.correct

    def append(self, segment: Segment, stop: StopReason | None) -> Rollout:
        """This rollout with one more segment; merged into the last one if it has the same version."""
        if self.finished:
            raise ValueError(f"rollout {self.id} has already stopped ({self.stop}); it cannot grow")
        segments = self.segments
        if segments and segments[-1].version == segment.version:
            last = segments[-1]
            segments = segments[:-1]
            segment = Segment(last.version, last.token_ids + segment.token_ids, last.logprobs + segment.logprobs)
        if segment.token_ids:
            segments = (*segments, segment)
        return replace(self, segments=segments, stop=stop)


@dataclass(frozen=True)
class Group:
    """A problem and its k rollouts; baselines and length rewards live here."""

    id: str
    """``<iteration drawn>.<index>``; unique within a run, orders the replay buffer (oldest first)."""
    problem: Problem
    rollouts: tuple[Rollout, ...]
    born: WeightVersion
    """Version under which the group was drawn; its age is the current version minus this."""

    @property
    def finished(self) -> bool:
        """A group completes when all of its rollouts have."""
        return all(rollout.finished for rollout in self.rollouts)

    def with_rollouts(self, rollouts: Iterable[Rollout]) -> Group:
        """The same group with other states of its rollouts."""
        return replace(self, rollouts=tuple(rollouts))


def split(groups: Iterable[Group]) -> tuple[list[Group], list[Group]]:
    """Finished and unfinished groups, each in the order given."""
    finished: list[Group] = []
    unfinished: list[Group] = []
    for group in groups:
        (finished if group.finished else unfinished).append(group)
    return finished, unfinished
