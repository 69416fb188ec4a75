"""How different the responses of an iteration are (docs/diversity.md). Pure: no model, no time, no state of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rl.record.metrics import Row
from rl.rewarding import ScoredGroup
from rollout.embedding.bag import DIMENSION, bags
from rollout.embedding.diversity import vendi_score
from rollout.embedding.vectors import Array, Vectors
from rollout.embedding.whitening import Moments
from rollout.types import Rollout, StopReason, Tokens, joined

ACROSS = 32
"""Most problems that are compared with each other."""


@dataclass(frozen=True)
class Members:
    """The responses of a group that can be compared, and where their vectors are."""

    rollouts: Sequence[Rollout]
    vectors: Array
    """[n, 64], raw."""
    whitened: Vectors
    """[n, d], of length 1."""

    def rank(self, wanted: Callable[[Rollout], bool]) -> tuple[float, int]:
        """Return the effective rank of the responses that are ``wanted``, and their number; 0 without any."""
        rows = [index for index, rollout in enumerate(self.rollouts) if wanted(rollout)]
        return (rank(self.vectors[rows], self.whitened[rows]) if rows else 0.0), len(rows)


def observe(scored: Sequence[ScoredGroup], before: Moments | None) -> tuple[Row, Moments]:
    """Return the metrics of an iteration's groups, and the moments of all responses so far, these included.

    ``before``: those of the iterations before; ``None``: there were none. Whitening is fitted on all of them. Aborted
    responses and those without a token of the policy are left out; a mean over no group is absent.
    """
    moments = before or Moments.empty(DIMENSION)
    kept = [rollouts for item in scored if (rollouts := comparable(item))]
    if not kept:
        return {}, moments
    vectors = bags([own_tokens(rollout) for rollouts in kept for rollout in rollouts])
    moments = moments.partial_fit(vectors)
    whitened = moments.finalize().transform(vectors) if differ(vectors) else np.ones((len(vectors), 1), np.float32)
    ends = np.cumsum([len(rollouts) for rollouts in kept])
    groups = [
        Members(rollouts, vectors[end - len(rollouts) : end], whitened[end - len(rollouts) : end])
        for rollouts, end in zip(kept, ends, strict=True)
    ]
    first = (ends - [len(rollouts) for rollouts in kept])[:ACROSS]
    return of_groups(groups) | _across(rank(vectors[first], whitened[first]), len(first)), moments


def of_groups(groups: Sequence[Members]) -> Row:
    """Return the means over those groups that have two responses to compare."""
    ranks = [found for group in groups if (found := group.rank(lambda _: True))[1] > 1]
    right = [found for group in groups if (found := group.rank(lambda r: r.correct))[1] > 1]
    wrong = [found for group in groups if (found := group.rank(is_wrong))[1] > 1]
    row: Row = {"diversity/wrong_groups": len(wrong)}
    if ranks:
        same = [not differ(group.vectors) for group in groups if len(group.rollouts) > 1]
        row |= {"diversity/effective_rank": float(np.mean([value for value, _ in ranks]))}
        row |= {"diversity/spread": _mean(ranks), "diversity/identical": sum(same) / len(same)}
    row |= {"diversity/right_spread": _mean(right)} if right else {}
    return row | ({"diversity/wrong_spread": _mean(wrong)} if wrong else {})


def spread(value: float, n: int) -> float:
    """Return an effective rank of ``n`` vectors as a share: 0 where all are alike, 1 where all are orthogonal."""
    return (value - 1) / (n - 1)


def rank(vectors: Array, whitened: Vectors) -> float:
    """Return the effective rank of responses; exactly 1 of those that are the same, also where they are the mean."""
    return vendi_score(whitened) if differ(vectors) else 1.0


def differ(vectors: Array) -> bool:
    """Return whether any two of the vectors differ."""
    return bool((vectors != vectors[0]).any())


def comparable(item: ScoredGroup) -> list[Rollout]:
    """Return the rollouts of a group that say what the policy does: aborted ones say what failed."""
    return [r for r in item.group.rollouts if r.stop is not StopReason.ABORTED and r.length]


def own_tokens(rollout: Rollout) -> Tokens:
    """Return the tokens that the policy drew, in order; what an environment wrote is not its own."""
    return joined([segment.token_ids for segment in rollout.segments if segment.sampled], np.int32)


def is_wrong(rollout: Rollout) -> bool:
    """Return whether a rollout was judged, and not found correct."""
    return rollout.score is not None and rollout.score.gradable and not rollout.correct


def _mean(ranks: Sequence[tuple[float, int]]) -> float:
    return float(np.mean([spread(value, n) for value, n in ranks]))


def _across(value: float, n: int) -> Row:
    return {"diversity/across": spread(value, n)} if n > 1 else {}
