"""The learner's process: model, optimiser and the sending end of weight transfer.

A plain class. ``rl.launch`` hosts it in a Ray actor; tests use it as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rl.batch import pack
from rl.config import RunConfig
from rl.disk import writing
from rl.learner import IterationStats, Learner
from rl.warmup import Pair
from rollout.engine import WeightUpdate
from rollout.types import Group, WeightVersion
from rollout.weights import WeightSender, sender


class LearnerHost:
    """Answers the calls of ``rl.loop.Policy`` and ``rl.warmup.Trainee``."""

    def __init__(self, config: RunConfig, model_path: Path | str, transfer: str) -> None:
        self.config = config
        self.learner = Learner(config, model_path)
        self.transfer = transfer
        self._sender: WeightSender | None = None

    def ready(self) -> None:
        """Returns once the model is loaded."""

    def sft(self, pairs: Sequence[Pair], lr: float) -> float:
        """See ``rl.warmup.Trainee``."""
        return self.learner.sft_step(pairs, lr)

    def train(
        self, groups: Sequence[Group], advantages: Sequence[Sequence[float | None]], version: WeightVersion
    ) -> IterationStats:
        """See ``rl.loop.Policy``."""
        self.learner.enter(version)
        batch = pack(groups, advantages, version, self.config.rollout.loss_on)
        return self.learner.train_iteration(batch, (self.config.seed, version))

    def publish(self, version: WeightVersion) -> WeightUpdate:
        """See ``rl.loop.Policy``."""
        if self._sender is None:
            self._sender = sender(self.transfer, self.config.engine.count, self.config.engine.tensor_parallel)
        self.learner.enter(version)
        return self._sender.send(self.learner.model, version)

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """See ``rl.loop.Policy``."""
        return self.learner.score(sequences)

    def save(self, folder: Path) -> None:
        """See ``rl.loop.Policy``."""
        with writing(folder):
            self.learner.save(folder)

    def load(self, folder: Path) -> None:
        """Inverse of ``save``."""
        self.learner.load(folder)

    def export(self, folder: Path, dtype: str = "float32") -> None:
        """Hugging Face model files into ``folder``, weights in ``dtype``."""
        folder.mkdir(parents=True, exist_ok=True)
        with writing(folder):
            self.learner.export_hf(folder, dtype)
