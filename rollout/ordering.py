"""In which order responses are best begun when there are more of them than engines draw at a time.

One that is begun last and turns out long keeps an engine busy for itself alone. Longest first (Graham's rule for equal
machines) leaves the short ones for the end; how long a response will be is guessed from those of its problem.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from rollout.partial import Stretch
from rollout.types import Group, Rollout


def longest_first(
    stretches: Iterable[Stretch], groups: Sequence[Group], earlier: dict[str, Sequence[int]] | None = None
) -> list[Stretch]:
    """Return the stretches, those that are expected to draw most tokens first; equals keep their order.

    ``groups`` hold their rollouts; ``earlier`` has lengths that responses to a problem had before, by problem id.
    """
    rollouts = {rollout.id: (group, rollout) for group in groups for rollout in group.rollouts}
    usual = [rollout.length for group in groups for rollout in group.rollouts if rollout.finished]

    def tokens(stretch: Stretch) -> float:
        group, rollout = rollouts[stretch.request.key]
        known = [*(earlier or {}).get(group.problem.id, ()), *_siblings(group, rollout)]
        return min(stretch.request.max_new_tokens, expected(rollout.length, known or usual))

    return sorted(stretches, key=tokens, reverse=True)


def expected(drawn: int, lengths: Sequence[int]) -> float:
    """Return how many more tokens a response of ``drawn`` tokens is expected to have, given the lengths of others.

    The mean of what the longer ones had left. One that is as long as all of them is expected to double, as is usual of
    lengths with a heavy tail; of a fresh one nothing is known without others, and 0 puts it behind those under way.
    """
    left = [length - drawn for length in lengths if length > drawn]
    return fmean(left) if left else float(drawn)


def _siblings(group: Group, own: Rollout) -> list[int]:
    """Return the lengths of the group's other rollouts: of unfinished ones what they have by now, which is too few."""
    return [rollout.length for rollout in group.rollouts if rollout.id != own.id and rollout.length]
