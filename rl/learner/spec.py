"""The complete configuration of a learner, of a run's or of another training's.

Imports no torch: drivers make these and send them to where the learner lives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from rl.config import RunConfig
from rl.learner.config import LearnerConfig, ModelConfig
from rl.learner.window import LossOn, window_of
from rl.placement import takes_turns


@dataclass(frozen=True)
class LearnerSpec:
    """One learner's configuration."""

    model: ModelConfig
    """Device, type, adapters, attention. ``base`` is not read, since the model comes from files."""
    learner: LearnerConfig
    """Objective, optimiser, and the cut into minibatches."""
    temperature: float = 1.0
    """Temperature at which the tokens of rollouts are sampled."""
    max_tokens: int = 1024
    """Longest response, which some objectives divide by."""
    longest: int | None = None
    """Tokens of the longest sequence that it is trained on or asked for, prompt included; ``None``: any."""
    loss_on: LossOn = "current"
    """Which tokens of a rollout carry loss: those of the present weights and of a window before them, or all."""
    window: int = 0
    """Weight versions before the present one whose tokens carry loss, too."""
    beta: float = 0.0
    """Weight of the contrast by which rollouts with evidence in windows are merged."""
    seed: int = 0
    """Seeds adapters, heads and the cut into minibatches."""

    @classmethod
    def of(cls, run: RunConfig) -> Self:
        """Return the learner's configuration of a run."""
        return cls(
            model=run.model,
            learner=run.learner,
            temperature=run.rollout.temperature,
            max_tokens=run.rollout.max_tokens,
            longest=run.engine.max_model_len,
            loss_on=run.rollout.loss_on,
            window=window_of(run.overlap),
            beta=run.rollout.evidence.weight(1) if run.rollout.evidence else 0.0,
            seed=run.seed,
        )


@dataclass(frozen=True)
class Receivers:
    """The engines that a learner sends its weights to."""

    backend: str
    """``local``, ``shm``, ``ipc`` or ``nccl``."""
    tensor_parallel: int = 1
    """Ranks of each engine."""
    names: Literal["module", "checkpoint"] = "module"
    """Names by which they know parameters."""
    elsewhere: bool = False
    """Whether some may be on other machines than rank 0, and get the copy through Ray's object store."""
    growing: bool = False
    """Engines may join on machines of which nothing is known yet."""

    @classmethod
    def of(cls, run: RunConfig, backend: str) -> Self:
        """Return the receivers of a run."""
        engine = run.engine
        names: Literal["module", "checkpoint"] = "module" if engine.kind == "hf" else "checkpoint"
        elsewhere = backend == "nccl" or (backend == "shm" and takes_turns(run) and engine.device == "cuda")
        return cls(backend, engine.tensor_parallel, names, elsewhere, engine.most is not None)
