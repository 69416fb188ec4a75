"""``evidence.json``: what a verifier knows beside its weights, and what it makes of a response with it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from rewards.models.evidence import NOTHING, Combined, EvidenceBins, Feature
from rewards.models.neighbours import Array, Neighbours
from rewards.models.ranking import Predicted
from rollout.files import replace_file
from rollout.reward_models.head import NOT_FINITE
from rollout.reward_models.labelled import RIGHT
from rollout.reward_models.opinion import Opinion
from rollout.strict_json import dumps

NAME = "evidence.json"


class EvidenceError(ValueError):
    """A verifier's evidence cannot be used; one line."""


@dataclass(frozen=True)
class Evidence:
    """Evidence from labelled responses, and when it is too little."""

    classes: tuple[str, ...]
    """Names of the classifier's outputs, in order."""
    at: Literal["ends", "starts", "means"]
    """What stands for a response: the state of its last token, of its first, or the mean of all."""
    bins: EvidenceBins
    neighbours: Neighbours
    most_uncertain: float = 0.3
    """Mass on "may be, may not be" beyond which there is no opinion."""
    most_conflict: float = 0.4
    """Conflict between features beyond which there is none."""

    def opinions(self, probabilities: Array, hidden: Array) -> list[Opinion]:
        """Return what it makes of responses; ``probabilities`` [n, classes], ``hidden`` [n, d]. Rows that are not
        finite have no opinion.
        """
        finite = np.isfinite(np.concatenate([probabilities, hidden], 1)).all(1)
        predicted = iter(self.neighbours.predicted(probabilities[finite], hidden[finite]))
        return [self.opinion(next(predicted)) if one else Opinion.none(NOT_FINITE) for one in finite.tolist()]

    def opinion(self, text: Predicted) -> Opinion:
        """Return P(right) as l + t/2 of the class ``right``, or none where t or the conflict is beyond its limit."""
        found = self.bins.whether(text.features, self.classes.index(RIGHT)) or Combined(NOTHING, 0.0)
        t, conflict = found.mass.uncertainty, found.conflict
        parts = {"uncertainty": t, "conflict": conflict, "outcome": float(text.label), "probability": text.probability}
        if t > self.most_uncertain + _ROUNDING:
            return Opinion(None, f"uncertain: {t:.2f} of the evidence says nothing", parts)
        if conflict > self.most_conflict:
            return Opinion(None, f"its evidence contradicts itself: conflict {conflict:.2f}", parts)
        return Opinion(min(max(found.mass.expected, 0.0), 1.0), parts=parts)

    def dump(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "classes": self.classes,
            "at": self.at,
            "most_uncertain": self.most_uncertain,
            "most_conflict": self.most_conflict,
            "uncertainty": self.bins.uncertainty,
            "bins": [[*feature, counts] for feature, counts in self.bins.counts.items()],
            "neighbours": [
                {"member": members, "vectors": np.round(vectors, 7).tolist()}
                for members, vectors in zip(self.neighbours.members, self.neighbours.vectors, strict=True)
            ],
            "count": self.neighbours.count,
        }

    @classmethod
    def parse(cls, row: dict[str, Any]) -> Self:
        """Return what ``dump`` gave. Raises ``KeyError``, ``TypeError`` and ``ValueError``."""
        classes = tuple(map(str, row["classes"]))
        counts = {Feature(kind, about, bin_): tuple(n) for kind, about, bin_, n in row["bins"]}
        bins = EvidenceBins(len(classes), counts, row["uncertainty"])
        members = tuple(tuple(one["member"]) for one in row["neighbours"])
        vectors = tuple(np.asarray(one["vectors"], np.float64) for one in row["neighbours"])
        if any(len(n) != len(classes) for n in counts.values()) or len(vectors) != len(classes):
            raise ValueError("its parts have different numbers of classes")
        near = Neighbours(members, vectors, row["count"])
        return cls(classes, row["at"], bins, near, row["most_uncertain"], row["most_conflict"])


_ROUNDING = 1e-9
"""A single feature leaves exactly the limit's default."""


def write_evidence(folder: Path, evidence: Evidence) -> None:
    """Write the evidence of the model in ``folder``. Raises ``OSError``."""
    replace_file(folder / NAME, (dumps(evidence.dump()) + "\n").encode())


def read_evidence(folder: Path) -> Evidence:
    """Return the evidence of the model in ``folder``. Raises ``EvidenceError``."""
    file = folder / NAME
    try:
        return Evidence.parse(json.loads(file.read_bytes()))
    except FileNotFoundError as error:
        raise EvidenceError(f"{file} is missing, and a verifier has no opinion without; train it again") from error
    except (ValueError, KeyError, TypeError) as error:
        raise EvidenceError(f"{file}: not as `k15 train verifier` writes it ({error}); train it again") from error


def abstentions(opinions: Sequence[Opinion]) -> dict[str, int]:
    """Return how many opinions there are not, by why."""
    reasons = (one.reason.partition(":")[0] for one in opinions if one.right is None)
    return dict(Counter(reasons))
