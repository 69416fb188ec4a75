"""What the trainings of a verifier teach in each epoch: what texts are, and what they are not [2306.07621]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rollout.seeds import seed_of

if TYPE_CHECKING:
    from rl.objectives.config import Pooled
    from rl.objectives.protocol import Objective

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Lesson:
    """One epoch."""

    kept: tuple[int, ...]
    """Which of the texts are taught."""
    labels: tuple[tuple[int, ...], ...]
    """[all texts] columns of ``Batch.labels``."""
    lr: float


class Teacher(Protocol):
    """What is taught in each epoch."""

    epochs: int
    batch: int

    @property
    def objective(self) -> Objective:
        """What is minimised."""

    def lesson(self, epoch: int) -> Lesson:
        """Return what epoch ``epoch`` (from 0) teaches."""

    def asks(self, epoch: int) -> bool:
        """Return whether ``see`` is to be called after an epoch."""

    def see(self, own: Sequence[float]) -> None:
        """Take in the probability of each text's own label."""

    def quality(self, probabilities: Array, gold: Sequence[int]) -> float:
        """Return how good an epoch is, by what it makes of validation texts."""

    def state(self) -> Any:
        """Return what it goes on from, as JSON."""

    def restore(self, state: Any) -> None:
        """Go on from ``state``."""


@dataclass
class Positive:
    """Cross-entropy; the best epoch is that of the highest macro-F1."""

    labels: Sequence[int]
    classes: int
    epochs: int
    batch: int
    lr: float
    at: Pooled = "ends"

    @property
    def objective(self) -> Objective:
        """See ``Teacher``."""
        from rl.objectives.classes import Classes

        return Classes(self.classes, at=self.at)

    def lesson(self, epoch: int) -> Lesson:  # noqa: ARG002
        """See ``Teacher``."""
        return Lesson(tuple(range(len(self.labels))), tuple((label,) for label in self.labels), self.lr)

    def asks(self, epoch: int) -> bool:  # noqa: ARG002
        """See ``Teacher``."""
        return False

    def see(self, own: Sequence[float]) -> None:
        """See ``Teacher``."""

    def quality(self, probabilities: Array, gold: Sequence[int]) -> float:
        """See ``Teacher``."""
        return macro_f1(probabilities.argmax(1).tolist(), gold, self.classes)

    def state(self) -> Any:
        """See ``Teacher``."""

    def restore(self, state: Any) -> None:
        """See ``Teacher``."""


class Negative:
    """Negative training, selective from an epoch on; the best epoch is that of the highest accuracy."""

    def __init__(
        self,
        labels: Sequence[int],
        classes: int,
        epochs: int,
        batch: int,
        lr: float,
        *,
        switch: int,
        seed: int,
        draws: int | None = None,
        history: int = 2,
        decay: float = 1.0,
        at: Pooled = "ends",
    ) -> None:
        from rl.objectives.negative import Negative as Objective
        from rl.objectives.negative import SelectiveFilter, class_weights

        self.labels, self.classes, self.epochs, self.batch, self.lr = labels, classes, epochs, batch, lr
        self.switch, self.seed, self.decay = switch, seed, decay
        self.draws = classes - 1 if draws is None else draws
        self.objective = Objective(classes, class_weights(labels, classes), at)
        self.filter = SelectiveFilter(classes, history)

    def lesson(self, epoch: int) -> Lesson:
        """See ``Teacher``."""
        from rl.objectives.negative import complementary

        rows = complementary(self.labels, self.classes, self.draws, seed_of(self.seed, "complementary", epoch))
        kept = self.filter.kept(len(self.labels)) if epoch >= self.switch else range(len(self.labels))
        return Lesson(tuple(kept), tuple(map(tuple, rows)), self.lr * self.decay ** (epoch // 2))

    def asks(self, epoch: int) -> bool:
        """See ``Teacher``."""
        return self.switch - self.filter.history <= epoch < self.epochs - 1

    def see(self, own: Sequence[float]) -> None:
        """See ``Teacher``."""
        self.filter.see(own)

    def quality(self, probabilities: Array, gold: Sequence[int]) -> float:
        """See ``Teacher``."""
        return float(np.mean(probabilities.argmax(1) == np.asarray(gold)))

    def state(self) -> Any:
        """See ``Teacher``."""
        return self.filter.seen

    def restore(self, state: Any) -> None:
        """See ``Teacher``."""
        self.filter.seen = state


def macro_f1(predicted: Sequence[int], gold: Sequence[int], classes: int) -> float:
    """Return the mean F1 of the classes; one that is neither there nor predicted does not count."""
    found, scores = np.asarray(predicted), []
    truth = np.asarray(gold)
    for label in range(classes):
        hits = int(((found == label) & (truth == label)).sum())
        all_of_it = int((found == label).sum()) + int((truth == label).sum())
        if all_of_it:
            scores.append(2 * hits / all_of_it)
    return float(np.mean(scores)) if scores else 0.0
