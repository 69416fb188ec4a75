"""Pretraining, fine-tuning and RL of one model, each by an optimiser of its own: what Moonlight's Table 6 is about."""

from __future__ import annotations

from typing import Any

from recipes.evidence.base import CONTEXT, SOURCE, held_out, learning, policy, warmed
from recipes.evidence.bench.finding import Bench
from recipes.evidence.bench.trial import Trial
from rl.config import CheckpointConfig, RunConfig
from rl.learner.config import LearnerConfig, ModelConfig, OptimizerConfig, ScratchModel
from rl.pretraining_config import CosineSchedule, MeasureConfig, PretrainConfig
from rl.text.config import ProblemsText, PythonText

KINDS = ("muon", "adamw")
NAMES = {"muon": "Muon", "adamw": "AdamW"}
MODEL = ScratchModel(layers=2, width=128, heads=4, kv_heads=4, mlp_width=384, context=CONTEXT)
"""That of the other trials of RL, over bytes."""
PRETRAINING_RATES = (4e-3, 8e-3, 16e-3)
TUNING_RATES = (1e-3, 3e-3, 6e-3)
"""Of fine-tuning."""
RL_RATES = (3e-4, 1e-3, 3e-3)
TUNING_SEED = 100
SCALE = (
    "A model of 0.4 million parameters over bytes: 2 million tokens of code, prose and sums, then 7,000 reasoning "
    "paths, then 20 iterations of RL; each learning rate tuned by the same budget on a seed of its own."
)


def pretrained(kind: str, rate: float, seed: int) -> Trial:
    """Return a pretraining on code, prose, and sums with their reasoning."""
    config = PretrainConfig(
        seed=seed,
        model=ModelConfig(base=MODEL, threads=1),
        text={"code": PythonText(part="code"), "prose": PythonText(part="prose"), "sums": ProblemsText(source=SOURCE)},
        schedule=CosineSchedule(
            steps=1000, batch=8, lr=rate, ramp=0.03, mixture={"code": 0.4, "prose": 0.2, "sums": 0.4}
        ),
        learner=LearnerConfig(optimizer=_optimizer(kind, rate)),
        measure=MeasureConfig(every=0),
        checkpoint=CheckpointConfig(every=500),
    )
    return Trial(config)


def finetuned(base: Trial, kind: str, rate: float, seed: int) -> Trial:
    """Return the supervised fine-tuning of a pretrained model on reasoning paths."""
    scratch = warmed(seed).config
    assert isinstance(scratch, RunConfig)
    warmup = scratch.warmup
    assert warmup is not None
    later = warmup.then[0].model_copy(update={"examples": 2000, "lr": rate})
    changes: dict[str, Any] = {
        "model": ModelConfig(base=MODEL, threads=1),
        "warmup": warmup.model_copy(update={"examples": 5000, "lr": rate, "then": (later,)}),
        "learner": LearnerConfig(optimizer=_optimizer(kind, rate)),
    }
    return Trial(scratch.model_copy(update=changes), base)


def reinforced(base: Trial, kind: str, rate: float, seed: int) -> Trial:
    """Return RL from a fine-tuned model."""
    return policy(seed, base, learner={"optimizer": {"kind": kind, "lr": rate}})


def _optimizer(kind: str, rate: float) -> OptimizerConfig:
    return OptimizerConfig(kind=kind, lr=rate, weight_decay=0.1)  # type: ignore[arg-type]


class Tuning:
    """The learning rates of the three stages, each tuned on the seed for that, one after the other."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.trials: list[Trial] = []
        """That tuning takes, as far as they are known."""

    def pretraining(self, kind: str) -> float | None:
        """Return the best learning rate of pretraining; ``None`` while it is not known."""
        choices = {rate: pretrained(kind, rate, TUNING_SEED) for rate in PRETRAINING_RATES}
        self.trials += choices.values()
        return self.bench.best(choices, lambda outcome: -outcome.pretraining.heldout["sums"].loss)

    def finetuning(self, before: str, kind: str) -> float | None:
        """Return that of fine-tuning what ``before`` has pretrained."""
        base = self.base(before, TUNING_SEED)
        if base is None:
            return None
        choices = {rate: finetuned(base, kind, rate, TUNING_SEED) for rate in TUNING_RATES}
        self.trials += choices.values()
        return self.bench.best(choices, held_out)

    def rl(self, before: str, kind: str) -> float | None:
        """Return that of RL on what ``before`` has pretrained and fine-tuned."""
        start = self.start(before, before, TUNING_SEED)
        if start is None:
            return None
        choices = {rate: reinforced(start, kind, rate, TUNING_SEED) for rate in RL_RATES}
        self.trials += choices.values()
        return self.bench.best(choices, learning)

    def base(self, kind: str, seed: int) -> Trial | None:
        """Return the pretraining of a seed."""
        rate = self.pretraining(kind)
        return None if rate is None else pretrained(kind, rate, seed)

    def start(self, before: str, kind: str, seed: int) -> Trial | None:
        """Return the fine-tuning of a seed."""
        base, rate = self.base(before, seed), self.finetuning(before, kind)
        return None if base is None or rate is None else finetuned(base, kind, rate, seed)
