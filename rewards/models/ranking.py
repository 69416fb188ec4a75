"""Which predictions on unlabelled texts to learn from: those with the most evidence [2306.07621]."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rewards.models.evidence import EvidenceBins, Feature

KEEP = 0.5
"""Share of the texts that is kept."""


@dataclass(frozen=True)
class Predicted:
    """What a classifier makes of one text."""

    label: int
    """The class that it gives the highest probability."""
    probability: float
    """Of that class."""
    features: tuple[Feature, ...]


@dataclass(frozen=True)
class Ranking:
    """Texts by the evidence for their predicted class, the strongest first."""

    order: tuple[int, ...]
    """Indices of the texts; those without any evidence for their predicted class are not among them."""
    kept: int
    """How many of them, from the first on, to learn from."""

    @property
    def chosen(self) -> tuple[int, ...]:
        """Return the texts to learn from."""
        return self.order[: self.kept]


def rank(texts: Sequence[Predicted], bins: EvidenceBins, keep: float = KEEP) -> Ranking:
    """Rank texts by the belief m(l) in their predicted class, the more probable first where that is equal.

    ``keep`` times the (text, class) pairs with evidence, over the number of classes, are kept, so that is a share of
    the texts where each has some evidence about all classes. Every text is ranked once, and by the class that it would
    be given: evidence for another class is none.
    """
    pairs = sum(bins.about(text.features, label) is not None for text in texts for label in range(bins.classes))
    order = _order(texts, bins)
    return Ranking(order, min(int(keep * pairs / bins.classes), len(order)))


def rank_by_class(texts: Sequence[Predicted], bins: EvidenceBins, keep: float = KEEP) -> tuple[int, ...]:
    """Return, of the texts of each predicted class, the share ``keep`` with the most belief in it, strongest first.

    Not in the paper, where all compete for the same places: classes that are told easily then take most of them, and
    what is learnt is what is common, too.
    """
    predicted = Counter(text.label for text in texts)
    taken: Counter[int] = Counter()
    chosen = []
    for index in _order(texts, bins):
        label = texts[index].label
        if taken[label] < int(keep * predicted[label]):
            taken[label] += 1
            chosen.append(index)
    return tuple(chosen)


def _order(texts: Sequence[Predicted], bins: EvidenceBins) -> tuple[int, ...]:
    beliefs = [
        (-own.mass.belief, -text.probability, index)
        for index, text in enumerate(texts)
        if (own := bins.about(text.features, text.label)) is not None
    ]
    return tuple(index for *_, index in sorted(beliefs))


def confident(texts: Sequence[Predicted], least: float = 0.9) -> tuple[int, ...]:
    """Return the texts whose prediction has a probability of at least ``least``: fixed-threshold self-training."""
    return tuple(index for index, text in enumerate(texts) if text.probability >= least)
