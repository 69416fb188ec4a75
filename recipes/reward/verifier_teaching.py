"""The two trainings of a verifier, by the one learner: what its texts are, and what they are not [2306.07621].

An epoch is a pure function of the weights, the seed and the teacher's state, and each of its steps of those and its
place, so a training that was cut short goes on from its last checkpoint, be it within an epoch.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from recipes.reward.verifier_teachers import Array, Lesson, Teacher
from rl.planned import Kept, carry_out
from rl.state.checkpoint import LEARNER, available
from rl.stop import Stopper
from rollout.files import replacing_folder
from rollout.progress import Progress
from rollout.types import TokenIds

if TYPE_CHECKING:
    from rl.learner.batch import Batch
    from rl.learner.stats import Step
    from rl.objectives.protocol import Needs, Objective, Outputs
    from rl.state.checkpoint import Sum

STATE = "teaching.json"
"""The teacher's part of a checkpoint."""
CHECKPOINTS = 20
"""Checkpoints over the whole training, at most."""
FEW = 50
"""Optimiser steps between two of them, at least."""


class Trainee(Kept, Protocol):
    """The part of the learner that a verifier is trained with."""

    def step(self, batch: Batch, objective: Objective, lr: float) -> Step:
        """One optimiser step."""

    def judged(self, batch: Batch, needs: Needs) -> Outputs:
        """Return outputs of whole sequences."""


@dataclass(frozen=True)
class Texts:
    """Texts as the model reads them, with their classes."""

    ids: tuple[TokenIds, ...] = ()
    labels: tuple[int, ...] = ()
    """[n], or none where they are not known."""

    def __len__(self) -> int:
        return len(self.ids)

    def __add__(self, other: Texts, /) -> Texts:
        return Texts(self.ids + other.ids, self.labels + other.labels)


def probabilities(policy: Trainee, texts: Sequence[TokenIds], objective: Objective) -> Array:
    """Return [n, classes] under the learner's present weights."""
    return judged(policy, texts, objective)[0]


def judged(policy: Trainee, texts: Sequence[TokenIds], objective: Objective) -> tuple[Array, Array]:
    """Return probabilities [n, classes] and the hidden states [n, d] that the head reads. Raises ``ValueError`` where
    they are not finite.
    """
    from rl.learner.batch import pack_labelled

    head = objective.needs.head
    assert head is not None
    found = policy.judged(pack_labelled(texts), replace(objective.needs, hidden=head.at))
    p, hidden = found.head.double().softmax(1).numpy(), found.hidden.double().numpy()
    if not (np.isfinite(p).all() and np.isfinite(hidden).all()):
        raise ValueError("the classifier gives values that are not finite; lower learner.optimizer.lr")
    return p, hidden


@dataclass
class Progressed:
    """What a training has done; part of its checkpoints."""

    best: int | None = None
    """Epoch whose weights are kept as the best; ``None`` without validation texts."""
    quality: float | None = None
    """Of the best epoch."""
    epochs: list[dict[str, float]] = field(default_factory=list)
    """One row each: loss, texts taught, quality."""
    nats: float = 0.0
    """Losses of the texts that the present epoch has taught so far, added up."""


class _Checkpointed:
    """The learner together with teacher and progress, as a checkpoint keeps them; and the weights of the best epoch."""

    def __init__(self, policy: Trainee, teacher: Teacher, folder: Path) -> None:
        self.policy, self.teacher, self.folder, self.done = policy, teacher, folder, Progressed()
        self._unread = False
        """Whether the learner was not yet asked for the end of its last save."""
        self._sums: Mapping[str, Sum] = {}
        self._named: set[int | None] = set()
        """The best epoch of the last save, which may not be in place yet."""

    def save(self, folder: Path) -> None:
        """See ``rl.state.checkpoint.Saves``."""
        self.policy.save(folder)
        self._unread, self._named = True, {self.done.best}
        (folder / STATE).write_text(json.dumps({"teacher": self.teacher.state(), "done": asdict(self.done)}))

    def saving(self) -> bool:
        """See ``rl.state.checkpoint.Saves``."""
        return self._unread and self.policy.saving()

    def saved(self) -> Mapping[str, Sum]:
        """See ``rl.state.checkpoint.Saves``."""
        if self._unread:
            self._sums, self._unread = self.policy.saved(), False
        return self._sums

    def load(self, folder: Path) -> None:
        """See ``rl.planned.Kept``."""
        self.policy.load(folder)
        told = json.loads((folder / STATE).read_bytes())
        self.teacher.restore(told["teacher"])
        self.done = Progressed(**told["done"])

    def offer(self, epoch: int, quality: float) -> None:
        """Keep the present weights if they are as good as the best, or better."""
        if self.done.quality is not None and quality < self.done.quality:
            return
        self.saved()  # the learner writes one thing at a time
        with replacing_folder(self._weights(epoch)) as aside:
            self.policy.save(aside)
            self.policy.saved()
        self.done.best, self.done.quality = epoch, quality
        # Older ones are no use but to the checkpoints that name them.
        named = {epoch} | self._named
        for there in available(self.folder / "checkpoints"):
            named.add(json.loads((there / LEARNER / STATE).read_bytes())["done"]["best"])
        for old in (self.folder / "best").glob("[0-9]*"):
            if int(old.name) not in named:
                shutil.rmtree(old)

    def settle_on_best(self) -> None:
        """Give the learner the weights of the best epoch; those it has where no epoch was judged."""
        if self.done.best is not None:
            self.policy.load(self._weights(self.done.best))

    def _weights(self, epoch: int) -> Path:
        return self.folder / "best" / f"{epoch:03d}"


@dataclass(frozen=True)
class _Epoch:
    """One that is being taught."""

    number: int
    """From 0 on."""
    lesson: Lesson
    minibatches: list[Batch]
    taught: list[int]
    """Texts taught after each of them."""

    @classmethod
    def open(cls, number: int, texts: Texts, teacher: Teacher, seed: int) -> _Epoch:
        """Return it, the same whenever it is asked for between its first and its last step.

        Raises ``ValueError`` when it teaches nothing.
        """
        from rl.learner.batch import pack_labelled

        lesson = teacher.lesson(number)
        if not lesson.kept:
            raise ValueError(f"no text is left in epoch {number}, all labels are improbable; raise switch")
        chosen = pack_labelled([texts.ids[i] for i in lesson.kept], [lesson.labels[i] for i in lesson.kept])
        minibatches = chosen.minibatches(math.ceil(len(chosen) / teacher.batch), (seed, number))
        return cls(number, lesson, minibatches, list(accumulate(map(len, minibatches))))


def teach(
    name: str,
    policy: Trainee,
    texts: Texts,
    validation: Texts,
    teacher: Teacher,
    folder: Path,
    seed: int,
    watch: Progress,
    stopper: Stopper,
) -> Progressed:
    """Train on ``texts``; leave the learner with the weights of the best epoch (the last one without validation texts).

    Of epochs that are equally good the latest counts. ``folder`` is for checkpoints; a training that was cut short goes
    on from there.
    """
    kept = _Checkpointed(policy, teacher, folder)
    most = math.ceil(len(texts) / teacher.batch)
    opened: _Epoch | None = None

    def act(_: int, step: tuple[int, int]) -> str:
        nonlocal opened
        number, at = step
        if opened is None or opened.number != number:
            opened = _Epoch.open(number, texts, teacher, seed)
        if at < len(opened.minibatches):
            part = opened.minibatches[at]
            kept.done.nats += policy.step(part, teacher.objective, opened.lesson.lr).loss * len(part)
        taught = opened.taught[min(at, len(opened.taught) - 1)]
        shown = f"epoch {number}, loss {kept.done.nats / taught:.3f}, {taught}/{len(opened.lesson.kept)} texts"
        if at + 1 == most:
            _close(opened, texts, validation, teacher, kept)
        return shown

    # An epoch that leaves texts out takes fewer steps: its last ones are empty.
    steps = [(number, at) for number in range(teacher.epochs) for at in range(most)]
    every = max(FEW, len(steps) // CHECKPOINTS)
    carry_out(name, steps, act, kept, folder / "checkpoints", every, watch, stopper)
    kept.settle_on_best()
    return kept.done


def _close(epoch: _Epoch, texts: Texts, validation: Texts, teacher: Teacher, kept: _Checkpointed) -> None:
    """Tell the teacher what the model makes of all texts, judge the epoch, and put it on record."""
    row = {
        "loss": kept.done.nats / len(epoch.lesson.kept),
        "texts": float(len(epoch.lesson.kept)),
        "lr": epoch.lesson.lr,
    }
    kept.done.nats = 0.0
    if teacher.asks(epoch.number):
        p = probabilities(kept.policy, texts.ids, teacher.objective)
        teacher.see(p[np.arange(len(texts)), list(texts.labels)].tolist())
    if len(validation):
        p = probabilities(kept.policy, validation.ids, teacher.objective)
        row["quality"] = teacher.quality(p, validation.labels)
        kept.offer(epoch.number, row["quality"])
    kept.done.epochs.append(row)
