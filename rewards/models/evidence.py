"""Evidence for and against a class, from a few labelled texts: features in bins, masses, Dempster's rule
[2306.07621; Shafer 1976].

A feature of a text that labelled texts have, too, says how often such texts are of a class. What it says is a mass on
{of the class}, {not of it}, and either; masses of several features are combined by Dempster's rule.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

UNCERTAINTY = 0.3
"""Mass that no feature, however telling, takes away from "either"; above 0, so that masses never exclude each other."""


class Feature(NamedTuple):
    """A value, to one decimal, that speaks about a class."""

    kind: Literal["prob", "cosine"]
    """``prob``: what the classifier gives the class that it predicts. ``cosine``: how far the text is from labelled
    texts of the class (``cosine_loss``)."""
    about: int
    """The class."""
    bin: float

    @classmethod
    def of(cls, kind: Literal["prob", "cosine"], about: int, value: float) -> Self:
        """Return the feature whose bin ``value`` is in."""
        return cls(kind, about, round(value, 1) + 0.0)  # no -0.0


class Mass(NamedTuple):
    """What is known of whether a text is of a class; the three add up to 1."""

    belief: float
    """Mass on: it is. m(l) in the paper."""
    disbelief: float
    """Mass on: it is not. m(u)."""
    uncertainty: float
    """Mass on: either. m({l, u})."""

    @property
    def expected(self) -> float:
        """Return the probability, what is uncertain being shared evenly: l + t/2."""
        return self.belief + self.uncertainty / 2


NOTHING = Mass(0.0, 0.0, 1.0)
"""No evidence."""


@dataclass(frozen=True)
class Combined:
    """Masses of several features as one."""

    mass: Mass
    conflict: float
    """K in [0, 1]: the mass that they put on contradictions, before what is left is scaled up to 1."""


def dempster(masses: Iterable[Mass]) -> Combined:
    """Combine masses about one class by Dempster's rule; of none, ``NOTHING``.

    The rule is commutative and associative, K included, since masses are scaled once, at the end. Features are taken to
    be independent: those that say the same twice count twice, so combine few. Raises ``ValueError`` for masses that
    exclude each other.
    """
    belief, disbelief, uncertainty = NOTHING
    for l, u, t in masses:  # noqa: E741 the paper's names
        belief, disbelief, uncertainty = (
            belief * (l + t) + uncertainty * l,
            disbelief * (u + t) + uncertainty * u,
            uncertainty * t,
        )
    left = belief + disbelief + uncertainty
    if not left > 0:
        raise ValueError("masses exclude each other: one is sure of the class, another that it is not")
    return Combined(Mass(belief / left, disbelief / left, uncertainty / left), min(max(1.0 - left, 0.0), 1.0))


def cosine_loss(cosines: Sequence[float], classes: int) -> float:
    """Return the mean of -log(e^c / (e^c + (C - 1) e)), in nats: small for a text that is near to others.

    ``cosines``: to texts of one of ``classes`` C classes, at least one.
    """
    return math.fsum(math.log1p((classes - 1) * math.exp(1 - cosine)) for cosine in cosines) / len(cosines)


@dataclass(frozen=True)
class EvidenceBins:
    """How many labelled texts of each class have each feature."""

    classes: int
    counts: Mapping[Feature, tuple[int, ...]]
    """[classes] for each feature that was seen."""
    uncertainty: float = UNCERTAINTY

    def __post_init__(self) -> None:
        if not 0 < self.uncertainty <= 1:
            raise ValueError(f"uncertainty is {self.uncertainty}; it has to be above 0 and at most 1")

    @classmethod
    def fit(
        cls,
        features: Sequence[Iterable[Feature]],
        gold: Sequence[int],
        classes: int,
        uncertainty: float = UNCERTAINTY,
    ) -> Self:
        """Count the features of labelled texts; ``gold``: the class of each."""
        counts: dict[Feature, list[int]] = {}
        for found, label in zip(features, gold, strict=True):
            for feature in set(found):
                counts.setdefault(feature, [0] * classes)[label] += 1
        return cls(classes, {feature: tuple(row) for feature, row in sorted(counts.items())}, uncertainty)

    def mass(self, feature: Feature, about: int | None = None) -> Mass | None:
        """Return what a feature says about the class ``about`` (without: its own); ``None`` for one never seen."""
        row = self.counts.get(feature)
        if row is None:
            return None
        share = row[feature.about if about is None else about] / sum(row)
        certain = 1 - self.uncertainty
        return Mass(certain * share, certain * (1 - share), self.uncertainty)

    def about(self, features: Iterable[Feature], label: int) -> Combined | None:
        """Return what a text's features of a class say together about it; ``None`` where none was seen before."""
        return self._combined(self.mass(feature) for feature in features if feature.about == label)

    def whether(self, features: Iterable[Feature], label: int) -> Combined | None:
        """Return what the prediction, whichever it is, and the distance to a class say together about that class.

        Where the class is the predicted one, that is ``about``.
        """
        telling = (f for f in features if f.kind == "prob" or f.about == label)
        return self._combined(self.mass(feature, label) for feature in telling)

    @staticmethod
    def _combined(masses: Iterable[Mass | None]) -> Combined | None:
        known = [mass for mass in masses if mass is not None]
        return dempster(known) if known else None
