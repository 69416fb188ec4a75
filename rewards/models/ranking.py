"""Which predictions on unlabelled texts to learn from: those with the most evidence [2306.07621]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rewards.models.evidence import Combined, EvidenceBins, Feature

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
    pairs = 0
    beliefs: list[tuple[float, float, int]] = []
    for index, text in enumerate(texts):
        found: dict[int, Combined | None] = {label: bins.about(text.features, label) for label in range(bins.classes)}
        pairs += sum(combined is not None for combined in found.values())
        if (own := found[text.label]) is not None:
            beliefs.append((-own.mass.belief, -text.probability, index))
    order = tuple(index for *_, index in sorted(beliefs))
    return Ranking(order, min(int(keep * pairs / bins.classes), len(order)))


def confident(texts: Sequence[Predicted], least: float = 0.9) -> tuple[int, ...]:
    """Return the texts whose prediction has a probability of at least ``least``: fixed-threshold self-training."""
    return tuple(index for index, text in enumerate(texts) if text.probability >= least)
