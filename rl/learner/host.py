"""The learner's process: model, optimiser and the sending end of weight transfer.

A plain class. ``rl.launch`` hosts one in a Ray actor for each of the learner's ranks; tests use it as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rl.learner.batch import Batch, pack, pack_demonstrations
from rl.learner.held import held
from rl.learner.learner import Learner
from rl.learner.ranks import Seat, join
from rl.learner.spec import LearnerSpec, Receivers
from rl.learner.stats import IterationStats, Step, known, of_clipping
from rl.objectives.cross_entropy import CrossEntropy
from rl.objectives.protocol import Needs, Objective, Outputs
from rl.state.checkpoint import Sum
from rl.state.disk import writing
from rl.warmup import Pair, Taught
from rollout.engine import WeightUpdate
from rollout.offload import Offload
from rollout.timeline import LEARNER, spanned
from rollout.transfer.sender import sender
from rollout.transfer.weights import WeightSender
from rollout.types import Group, Tokens, WeightVersion


class LearnerHost:
    """Implements ``rl.parts.Policy`` and ``rl.warmup.Trainee``; of many ranks each is called alike.

    ``seat``: where it meets the other ranks; ``None``: there are none.
    """

    def __init__(
        self, spec: LearnerSpec, model_path: Path | str, receivers: Receivers, seat: Seat | None = None
    ) -> None:
        self.receivers = receivers
        self.claim: Callable[[], None] = lambda: None
        """Called before the learner's device is used: whoever has it meanwhile gives it up (``rl.turns``)."""
        self.ranks = None if seat is None else join(spec.learner.ranks, spec.model.device, seat)
        self._learner: Learner | None = Learner(spec, model_path, self.ranks)
        self._sender: WeightSender | None = None
        self._saving_into = Path()
        self._offload = Offload(spec.model.device, lambda: held(self._present))
        self._away = False
        self._turn: dict[str, float] = {}
        """Metrics of the last time that the learner left its device and came back."""

    @property
    def learner(self) -> Learner:
        """Return the present learner, which is to be used. Raises ``RuntimeError`` after ``offload``, and as
        ``_present``.
        """
        self.claim()
        if self._away:
            raise RuntimeError("the learner is in host memory; onload brings it back to its device")
        return self._present

    @property
    def _present(self) -> Learner:
        """Return the present learner, wherever it is. Raises ``RuntimeError`` after a failed ``replace``, which leaves
        none.
        """
        if self._learner is None:
            raise RuntimeError("this process gave its learner up for another that could not be made; replace makes one")
        return self._learner

    @spanned(LEARNER, "offload")
    def offload(self) -> None:
        """Move weights, accumulated gradients and moments into host memory, and give all memory of the device back.

        Until ``onload`` only a save that was begun goes on. Idempotent, of each rank by itself.
        """
        began = time.perf_counter()
        self._present.drop_spent()
        self._away = True
        self._offload.away()
        self._turn |= {"hybrid/offload_s": time.perf_counter() - began, "hybrid/bytes": self._offload.bytes}

    @spanned(LEARNER, "onload")
    def onload(self) -> None:
        """Bring back what ``offload`` moved, bit for bit. Idempotent."""
        began = time.perf_counter()
        self._offload.back()
        self._away = False
        self._turn["hybrid/onload_s"] = time.perf_counter() - began

    def ready(self) -> None:
        """Return once the model is loaded."""

    @spanned(LEARNER, "start")
    def replace(self, spec: LearnerSpec, model_path: Path | str) -> None:
        """Replace the learner of this process; the sender of weights, which engines know, stays."""
        self.claim()
        self._learner = None  # first: there may not be room for two
        self._offload = Offload(spec.model.device, lambda: held(self._present))
        self._away = False
        self._learner = Learner(spec, model_path, self.ranks)

    @spanned(LEARNER, "train")
    def sft(self, pairs: Sequence[Pair], lr: float) -> Taught:
        """See ``rl.warmup.Trainee``."""
        learner = self.learner
        step = learner.step(pack_demonstrations(pairs, learner.label), learner.supervised, lr)
        told = {name: tally.value for name, tally in step.tallies.items()}
        return Taught(step.loss, known(told | of_clipping([step])))

    @spanned(LEARNER, "train")
    def pretrain(self, rows: Sequence[Tokens], lr: float, step: int, balance: float) -> Taught:
        """See ``rl.pretraining.Trainee``."""
        learner = self.learner
        learner.enter(step)
        done = learner.step(pack_demonstrations([(row[:1], row[1:]) for row in rows]), CrossEntropy(), lr)
        told = {"grad_norm": done.grad_norm, "skipped": float(done.skipped)}
        told |= {f"update_rms/{name}": value for name, value in learner.optimizer.update_rms().items()}
        overload = learner.loads.balance(0.0 if done.skipped else balance)
        return Taught(done.loss, told | known({"experts/overload": overload} | of_clipping([done])))

    @spanned(LEARNER, "train")
    def step(self, batch: Batch, objective: Objective, lr: float) -> Step:
        """Take one optimiser step on any objective; see ``Learner.step``."""
        return self.learner.step(batch, objective, lr)

    @spanned(LEARNER, "score")
    def logprobs(self, batch: Batch, objective: Objective) -> torch.Tensor:
        """See ``Learner.logprobs``."""
        return self.learner.logprobs(batch, objective)

    @spanned(LEARNER, "score")
    def judged(self, batch: Batch, needs: Needs) -> Outputs:
        """See ``Learner.judged``."""
        return self.learner.judged(batch, needs)

    @spanned(LEARNER, "train")
    def train(
        self, groups: Sequence[Group], advantages: Sequence[Sequence[float | None]], version: WeightVersion
    ) -> IterationStats:
        """See ``rl.parts.Policy``."""
        learner = self.learner
        learner.enter(version)
        batch = self._packed(groups, advantages, version)
        stats = learner.train_iteration(batch, (learner.spec.seed, version))
        return replace(stats, metrics=stats.metrics | self._turn)

    def _packed(
        self, groups: Sequence[Group], advantages: Sequence[Sequence[float | None]], version: WeightVersion
    ) -> Batch:
        spec = self.learner.spec
        label = self.learner.label
        return pack(groups, advantages, version, spec.loss_on, spec.window, spec.beta, label)

    @spanned(LEARNER, "train")
    def accumulate(
        self, groups: Sequence[Group], advantages: Sequence[Sequence[float | None]], version: WeightVersion
    ) -> None:
        """Add the gradients of some finished groups of iteration ``version`` [groups][k]; see ``Learner.accumulate``.

        ``publish`` begins an iteration: what was accumulated before and never closed is forgotten.
        """
        learner = self.learner
        learner.enter(version)
        learner.accumulate(self._packed(groups, advantages, version))

    @spanned(LEARNER, "train")
    def close_iteration(self, version: WeightVersion) -> IterationStats:
        """Take the optimiser step of iteration ``version``, whose groups came through ``accumulate``."""
        self.learner.enter(version)
        return self.learner.close_iteration()

    @spanned(LEARNER, "publish")
    def publish(self, version: WeightVersion) -> WeightUpdate:
        """See ``rl.parts.Policy``."""
        self.learner.abandon()
        if self._sender is None:
            to, first = self.receivers, self.ranks is None or self.ranks.first
            self._sender = sender(to.backend, to.tensor_parallel, to.names, first, _store(to))
        self.learner.enter(version)
        return self._sender.send(self.learner.model, version)

    @spanned(LEARNER, "score")
    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """See ``rl.parts.Policy``."""
        return self.learner.score(sequences)

    @spanned(LEARNER, "save")
    def save(self, folder: Path) -> None:
        """See ``rl.state.checkpoint.Saves``."""
        self._saving_into = folder
        with writing(folder):
            self.learner.save(folder)

    def saving(self) -> bool:
        """See ``rl.state.checkpoint.Saves``."""
        return self._present.saving()

    @spanned(LEARNER, "save")
    def saved(self) -> dict[str, Sum]:
        """See ``rl.state.checkpoint.Saves``."""
        with writing(self._saving_into):
            return self._present.saved()

    @spanned(LEARNER, "load")
    def load(self, folder: Path) -> None:
        """Restore what a save wrote, however many ranks there were."""
        self.learner.load(folder)

    @spanned(LEARNER, "save")
    def export(self, folder: Path, dtype: str = "float32") -> None:
        """Write Hugging Face model files into ``folder``, weights in ``dtype``."""
        folder.mkdir(parents=True, exist_ok=True)
        with writing(folder):
            self.learner.export_hf(folder, dtype)


def _store(to: Receivers) -> Callable[[Any], Any] | None:
    """Return what keeps weights where engines on other machines get them; ``None`` where all are on this one.

    What it keeps is one more copy of all weights, at every publish.
    """
    if not (to.elsewhere or to.growing):
        return None
    import ray

    several = ray.is_initialized() and (to.growing or sum(node["Alive"] for node in ray.nodes()) > 1)
    return ray.put if several else None  # type: ignore[no-any-return]


class LearnerRank(LearnerHost):
    """A host in an actor of its own, which loads its model in ``ready``.

    Not when it is made: of an exception there Ray passes on the text alone, and the ranks would not fail together.
    """

    def __init__(self, *arguments: Any) -> None:
        self._arguments = arguments

    def ready(self) -> None:
        """Meet the other ranks and load the model."""
        super().__init__(*self._arguments)
