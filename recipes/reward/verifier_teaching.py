"""The two trainings of a verifier, by the one learner: what its texts are, and what they are not [2306.07621].

An epoch is a pure function of the weights, the seed and the teacher's state, so a training that was cut short goes on
from its last checkpoint.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from recipes.reward.verifier_teachers import Array, Lesson, Teacher
from rl.planned import Kept, carry_out
from rl.state.checkpoint import LEARNER, available
from rl.stop import Interrupted, Stopper
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
FEW = 50
"""Optimiser steps that an epoch takes at least if a checkpoint follows each."""


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


class _Checkpointed:
    """The learner together with teacher and progress, as a checkpoint keeps them; and the weights of the best epoch."""

    def __init__(self, policy: Trainee, teacher: Teacher, folder: Path) -> None:
        self.policy, self.teacher, self.folder, self.done = policy, teacher, folder, Progressed()
        self._unread = False
        """Whether the learner was not yet asked for the end of its last save."""
        self._sums: Mapping[str, Sum] = {}

    def save(self, folder: Path) -> None:
        """See ``rl.state.checkpoint.Saves``."""
        self.policy.save(folder)
        self._unread = True
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
        named = {epoch}
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

    def act(epoch: int, _: int) -> str:
        lesson = teacher.lesson(epoch)
        if not lesson.kept:
            raise ValueError(f"{name}: no text is left in epoch {epoch}, all labels are improbable; raise switch")

        def before_step(done: int) -> None:
            if stopper.requested:
                raise Interrupted(f"stopped in epoch {epoch} of the {name}")
            watch.say(f"epoch {epoch}, {done}/{len(lesson.kept)} texts")

        loss = _epoch(policy, texts, lesson, teacher, (seed, epoch), before_step)
        row = {"loss": loss, "texts": float(len(lesson.kept)), "lr": lesson.lr}
        if teacher.asks(epoch):
            p = probabilities(policy, texts.ids, teacher.objective)
            teacher.see(p[np.arange(len(texts)), list(texts.labels)].tolist())
        if len(validation):
            p = probabilities(policy, validation.ids, teacher.objective)
            row["quality"] = teacher.quality(p, validation.labels)
            kept.offer(epoch, row["quality"])
        kept.done.epochs.append(row)
        return f"loss {loss:.3f}, {len(lesson.kept)} texts"

    steps = math.ceil(len(texts) / teacher.batch)
    every = max(1, round(FEW / steps))
    carry_out(name, range(teacher.epochs), act, kept, folder / "checkpoints", every, watch, stopper)
    kept.settle_on_best()
    return kept.done


def _epoch(
    policy: Trainee,
    texts: Texts,
    lesson: Lesson,
    teacher: Teacher,
    seed: tuple[int, int],
    before_step: Callable[[int], None],
) -> float:
    """Take the steps of one epoch; return the mean loss of a text, in nats. Tells how many texts have been taught."""
    from rl.learner.batch import pack_labelled

    chosen = pack_labelled([texts.ids[i] for i in lesson.kept], [lesson.labels[i] for i in lesson.kept])
    total, done = 0.0, 0
    for minibatch in chosen.minibatches(math.ceil(len(chosen) / teacher.batch), seed):
        before_step(done)
        done += len(minibatch)
        total += policy.step(minibatch, teacher.objective, lesson.lr).loss * len(minibatch)
    return total / len(chosen)
