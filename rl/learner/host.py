"""The learner's process: model, optimiser and the sending end of weight transfer.

A plain class. ``rl.launch`` hosts it in a Ray actor; tests use it as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from rl.config import RunConfig
from rl.learner.batch import pack
from rl.learner.learner import IterationStats, Learner
from rl.state.disk import writing
from rl.warmup import Pair
from rollout.engine import WeightUpdate
from rollout.transfer.sender import sender
from rollout.transfer.weights import Names, WeightSender
from rollout.types import Group, WeightVersion

T = TypeVar("T")


class LearnerHost:
    """Answers the calls of ``rl.loop.Policy`` and ``rl.warmup.Trainee``."""

    def __init__(self, config: RunConfig, model_path: Path | str, transfer: str) -> None:
        self.config = config
        self.transfer = transfer
        self._learner: Learner | None = Learner(config, model_path)
        self._sender: WeightSender | None = None

    @property
    def learner(self) -> Learner:
        """The learner at work. Raises ``RuntimeError`` after ``stream``, which has none."""
        if self._learner is None:
            raise RuntimeError("this process gave its learner up for another training; replace starts one again")
        return self._learner

    def ready(self) -> None:
        """Returns once the model is loaded."""

    def replace(self, config: RunConfig, model_path: Path | str) -> None:
        """Another learner in this process, in the place of the old one; engines know the sender, which stays."""
        self._learner = None  # first: there may not be room for two
        self.config, self._learner = config, Learner(config, model_path)

    def stream(self, steps: Callable[..., Iterator[T]], *args: object) -> Iterator[T]:
        """Run the generator function ``steps``, a training of another kind, in this process instead of the learner."""
        self._learner = None
        yield from steps(*args)

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
            engine = self.config.engine
            names: Names = "module" if engine.kind == "hf" else "checkpoint"
            self._sender = sender(self.transfer, engine.count, engine.tensor_parallel, names)
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
