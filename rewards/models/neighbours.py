"""From what a classifier makes of texts to features of theirs: how sure it is, and how near labelled texts are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from rewards.models.evidence import Feature, cosine_loss
from rewards.models.ranking import Predicted

NEIGHBOURS = 5
"""Labelled texts of each class that a text is compared with."""
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Neighbours:
    """A few labelled texts of each class, drawn once: what is near is near to the same texts for all."""

    members: tuple[tuple[int, ...], ...]
    """[classes] which of the labelled texts they are, one more than are used: no text is compared with itself."""
    vectors: tuple[Array, ...]
    """[classes][members, d] of length 1."""
    count: int = NEIGHBOURS
    """Of each class, at most."""

    @classmethod
    def draw(cls, hidden: Array, labels: Sequence[int], classes: int, seed: int, count: int = NEIGHBOURS) -> Self:
        """Draw from labelled texts with hidden states [n, d]. Raises ``ValueError`` for a class without any."""
        rng = np.random.default_rng(seed)
        gold, units = np.asarray(labels), unit(hidden)
        members = []
        for label in range(classes):
            those = np.flatnonzero(gold == label)
            if not len(those):
                raise ValueError(f"class {label} has no labelled text to compare with")
            members.append(tuple(rng.permutation(those)[: count + 1].tolist()))
        return cls(tuple(members), tuple(units[list(chosen)] for chosen in members), count)

    def losses(self, hidden: Array, own: Sequence[int | None]) -> list[list[float | None]]:
        """Return ``cosine_loss`` of each text to each class [n][classes]; ``None`` where it is the class's only text.

        ``own`` [n]: which of the labelled texts each is, if it is one of them.
        """
        units = unit(hidden)
        rows: list[list[float | None]] = [[] for _ in own]
        for chosen, vectors in zip(self.members, self.vectors, strict=True):
            cosines = units @ vectors.T
            for row, values, this in zip(rows, cosines, own, strict=True):
                others = [float(value) for value, member in zip(values, chosen, strict=True) if member != this]
                row.append(cosine_loss(others[: self.count], len(self.members)) if others else None)
        return rows

    def predicted(
        self, probabilities: Array, hidden: Array, own: Sequence[int | None] | None = None
    ) -> list[Predicted]:
        """Return prediction and features of each text; ``probabilities`` [n, classes], ``hidden`` [n, d]."""
        losses = self.losses(hidden, [None] * len(hidden) if own is None else own)
        found = []
        for row, near in zip(probabilities, losses, strict=True):
            label, value = int(row.argmax()), float(row.max())
            cosines = [Feature.of("cosine", about, loss) for about, loss in enumerate(near) if loss is not None]
            found.append(Predicted(label, value, (Feature.of("prob", label, value), *cosines)))
        return found


def unit(vectors: Array) -> Array:
    """Return vectors [n, d] at length 1; those of length 0 stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1.0), np.float64)
