"""Supervised fine-tuning on chosen responses, with the learner and the warm-up loop of RL."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from recipes.launching import launch_learner_alone
from recipes.setup import Setup
from recipes.shorten.config import FineTuneConfig
from recipes.shorten.progress import Steps
from rl.config import PretrainedModel, RunConfig, WarmupStage
from rl.disk import writing
from rl.stop import Stopper
from rl.warmup import Pair, WarmupReport, warm_up
from rollout.export import save_tokenizer


@dataclass(frozen=True)
class Start:
    """A model that a stage trains, and the folder that it trains in."""

    setup: Setup
    model: Path
    folder: Path
    """Gets ``model/`` and ``checkpoints/``."""
    stopper: Stopper


def on_model(run: RunConfig, model: Path) -> RunConfig:
    """The run's configuration with ``model`` as the policy to start from, and no warm-up."""
    policy = run.model.model_copy(update={"base": PretrainedModel(path=str(model))})
    return run.model_copy(update={"model": policy, "warmup": None})


def fine_tune(start: Start, pairs: Sequence[Pair], keys: FineTuneConfig) -> WarmupReport:
    """Train on ``pairs`` and write ``folder/model``; goes on from the last checkpoint of an interrupted training."""
    config = on_model(start.setup.config, start.model)
    schedule = WarmupStage(examples=len(pairs), epochs=keys.epochs, batch_tokens=keys.batch_tokens, lr=keys.lr)
    with ExitStack() as stack:
        with start.stopper.interruptible():
            policy = launch_learner_alone(config, start.model, stack, start.stopper.claim)
        watch = stack.enter_context(Steps())
        report = warm_up(
            [schedule],
            [pairs],
            policy,
            start.folder / "checkpoints",
            watch,
            start.stopper,
            config.seed,
            lambda _, loss: watch.say(f"loss {loss:.3f}"),
        )
        policy.export(start.folder / "model")
        with writing(start.folder):
            save_tokenizer(start.setup.tokenizer, start.folder / "model", start.setup.source)
    return report
