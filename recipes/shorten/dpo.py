"""Direct preference optimisation on token ids, with the learner of RL [2305.18290, 2501.12599 §2.4].

The reference is the model that training starts from. Its log-probs are computed once, on the micro-batches of the first
epoch, and kept in a file: no second model in memory, and a log-ratio of exactly 0 at the first step.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from recipes.run.finish import model_writer
from recipes.shorten.config import DpoConfig
from recipes.shorten.training import Start, on_model
from rl.config import RunConfig
from rl.planned import Kept, StepLog, carry_out
from rl.stop import Stopper
from rl.warmup import learning_rate
from rollout.files import replace_file
from rollout.progress import Progress, progress
from rollout.seeds import seed_of

if TYPE_CHECKING:
    import torch

    from rl.learner.batch import Batch
    from rl.learner.stats import Step
    from rl.objectives.protocol import Objective

TokenPair = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Prompt, chosen and rejected token ids; responses as sampled, with their end token if they have one."""
CHECKPOINTS = 10
"""Checkpoints over the whole training."""
ADAM_BETAS = (0.9, 0.999)
"""AdamW's usual decay rates in DPO, whose runs are short; no weight decay."""


class Trainee(Kept, Protocol):
    """The part of the learner that DPO uses."""

    def step(self, batch: Batch, objective: Objective, lr: float) -> Step:
        """One optimiser step."""

    def logprobs(self, batch: Batch, objective: Objective) -> torch.Tensor:
        """Return [L] log-probs of the loss tokens under the present weights, on the micro-batches of a step on
        ``batch``.
        """


@dataclass(frozen=True)
class PairStep:
    """One optimiser step."""

    pairs: tuple[int, ...]
    """Indices of its pairs."""
    lr: float


def plan(pairs: int, keys: DpoConfig, seed: int) -> list[PairStep]:
    """Return all steps over so many pairs; every epoch has its own order."""
    drawn: list[tuple[int, ...]] = []
    for epoch in range(keys.epochs):
        order = list(range(pairs))
        random.Random(seed_of(seed, "dpo", epoch)).shuffle(order)
        drawn += [tuple(order[at : at + keys.batch_pairs]) for at in range(0, pairs, keys.batch_pairs)]
    return [
        PairStep(chosen, learning_rate(at, len(drawn), keys.lr, ramp=0.1, end=0.0)) for at, chosen in enumerate(drawn)
    ]


def configured(run: RunConfig, model: Path, keys: DpoConfig) -> RunConfig:
    """Return the run's configuration with ``model`` to start from, and DPO's optimiser."""
    config = on_model(run, model)
    optimizer = config.learner.optimizer.model_copy(
        update={"kind": "adamw", "lr": keys.lr, "weight_decay": 0.0, "adam_betas": ADAM_BETAS, "adamw_lr_scale": 1.0}
    )
    return config.model_copy(update={"learner": config.learner.model_copy(update={"optimizer": optimizer})})


def optimise(start: Start, pairs: Sequence[TokenPair], keys: DpoConfig) -> int:
    """Train on ``pairs`` and write ``folder/model``; returns the number of steps.

    Goes on from the last checkpoint of an interrupted training.
    """
    config = configured(start.setup.config, start.model, keys)
    with progress() as watch:
        watch.stage("starting the learner")
        with start.stopper.interruptible():
            policy = start.workers.learner(config, start.model)
        steps = prefer(policy, pairs, keys, start.folder, watch, start.stopper, config.seed)
        watch.stage("export")
        model_writer(policy, start.setup)(start.folder / "model")
    return steps


def prefer(
    policy: Trainee,
    pairs: Sequence[TokenPair],
    keys: DpoConfig,
    folder: Path,
    watch: Progress,
    stopper: Stopper,
    seed: int,
) -> int:
    """Train ``policy``, which holds the reference's weights, and return the number of steps.

    ``folder`` gets ``reference.npy``, ``checkpoints/`` and ``log.jsonl``.
    """
    from rl.objectives.preference import Preference

    objective = Preference(keys.beta, keys.sft_weight)
    steps = plan(len(pairs), keys, seed)
    epoch = steps[: -(-len(pairs) // keys.batch_pairs)]
    file = folder / "reference.npy"
    if not file.exists():
        watch.stage("reference", len(epoch))
        with stopper.interruptible():
            values = io.BytesIO()
            np.save(values, _reference(policy, pairs, epoch, objective, lambda: watch.advance(1)))
        replace_file(file, values.getvalue())
    reference = _split(np.load(file), pairs)

    def act(number: int, step: PairStep) -> str:
        import torch

        batch = pack_pairs([pairs[index] for index in step.pairs])
        before = torch.from_numpy(np.concatenate([reference[index] for index in step.pairs]))
        done = policy.step(replace(batch, reference_logprobs=before), objective, step.lr)
        margin, preferred = (done.tallies[f"objective/{name}"].value for name in ("margin", "preferred"))
        log.write(number, {"loss": done.loss, "margin": margin, "preferred": preferred, "lr": step.lr})
        return f"loss {done.loss:.3f}, margin {margin:.3f}"

    every = max(1, len(steps) // CHECKPOINTS)
    with closing(StepLog(folder / "log.jsonl")) as log:
        carry_out("DPO", steps, act, policy, folder / "checkpoints", every, watch, stopper)
    return len(steps)


def pack_pairs(pairs: Sequence[TokenPair]) -> Batch:
    """Pack the pairs as chosen, rejected, chosen, rejected: each with its prompt, loss on the response."""
    from rl.learner.batch import pack_demonstrations

    return pack_demonstrations([(pair[0], response) for pair in pairs for response in pair[1:]])


def _reference(
    policy: Trainee,
    pairs: Sequence[TokenPair],
    epoch: Sequence[PairStep],
    objective: Objective,
    tell: Callable[[], None],
) -> np.ndarray:
    """Return [all response tokens] float32 log-probs in the order of ``pairs``, chosen before rejected."""
    found: dict[int, np.ndarray] = {}
    for step in epoch:
        chosen = [pairs[index] for index in step.pairs]
        values = policy.logprobs(pack_pairs(chosen), objective).numpy()
        found |= zip(step.pairs, _split(values, chosen), strict=True)
        tell()
    return np.concatenate([found[index] for index in range(len(pairs))])


def _split(values: np.ndarray, pairs: Sequence[TokenPair]) -> list[np.ndarray]:
    """Split ``values`` by pairs; they hold one number for each response token of all pairs."""
    ends = np.cumsum([len(pair[1]) + len(pair[2]) for pair in pairs])
    return np.split(values, ends[:-1])
