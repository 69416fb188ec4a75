"""Supervised fine-tuning on chosen responses, with the learner and the warm-up loop of RL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recipes.run.finish import model_writer
from recipes.run.setup import Setup
from recipes.shorten.config import FineTuneConfig
from recipes.shorten.workers import Workers
from rl.config import RunConfig, WarmupStage
from rl.learner.config import PretrainedModel
from rl.stop import Stopper
from rl.warmup import Pair, WarmupReport, warm_up
from rollout.progress import progress


@dataclass(frozen=True)
class Start:
    """A model that a stage trains, and the folder that it trains in."""

    setup: Setup
    model: Path
    folder: Path
    """Folder for ``model/`` and ``checkpoints/``."""
    stopper: Stopper
    workers: Workers


def on_model(run: RunConfig, model: Path) -> RunConfig:
    """Return the run's configuration with ``model`` as the policy to start from, attention as at the run's end, no
    warm-up.
    """
    changes = {
        "base": PretrainedModel(path=str(model)),
        "attention": run.model.attention.settled(run.iterations),
    }
    return run.model_copy(update={"model": run.model.model_copy(update=changes), "warmup": None})


def fine_tune(start: Start, pairs: Sequence[Pair], keys: FineTuneConfig) -> WarmupReport:
    """Train on ``pairs`` and write ``folder/model``; goes on from the last checkpoint of an interrupted training."""
    config = on_model(start.setup.config, start.model)
    schedule = WarmupStage(examples=len(pairs), epochs=keys.epochs, batch_tokens=keys.batch_tokens, lr=keys.lr)
    with progress() as watch:
        watch.stage("starting the learner")
        with start.stopper.interruptible():
            policy = start.workers.learner(config, start.model)
        report = warm_up(
            [schedule],
            [pairs],
            policy,
            start.folder / "checkpoints",
            watch,
            start.stopper,
            config.seed,
            lambda *_: None,
        )
        watch.stage("export")
        model_writer(policy, start.setup)(start.folder / "model")
    return report
