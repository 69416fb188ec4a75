"""``k15 train reward``: a classic reward model by the one learner, calibrated, measured and saved for transformers."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from recipes.reward.config import HeadTrainingConfig
from recipes.reward.data import CLASSES, Example, Parts, balance
from recipes.reward.plot import write_png
from recipes.reward.results import SCHEMA, Judged, measures, write_results, write_verdicts, written
from recipes.run.launching import Site
from rewards.models.calibration import Floats, bins, fit_temperature
from rl.planned import Kept, StepLog, carry_out
from rl.state.disk import writing
from rl.stop import Stopper
from rl.warmup import SHOWN_STEPS, batches, learning_rate
from rollout.files import replacing_folder
from rollout.models.export import ExportError, save_tokenizer
from rollout.progress import Progress
from rollout.reward_models.card import Card, write_card
from rollout.reward_models.reading import Reader
from rollout.seeds import seed_of

if TYPE_CHECKING:
    from rl.learner.batch import Batch
    from rl.learner.stats import Step
    from rl.objectives.protocol import Needs, Objective, Outputs

BEST = "best"
"""Folder of the best epoch so far."""
CHECKPOINTS = 10
"""Checkpoints over the whole training."""
COMPARED = 16
"""Responses on which the written model is compared with the learner."""
EXACT, ROUNDED = 1e-3, 0.5
"""Largest difference of logits between learner and written model; the second where either rounds to bfloat16."""


class Trainee(Kept, Protocol):
    """The part of the learner that a head is trained with."""

    def step(self, batch: Batch, objective: Objective, lr: float) -> Step:
        """One optimiser step."""

    def judged(self, batch: Batch, needs: Needs) -> Outputs:
        """Return head outputs of whole sequences."""

    def export(self, folder: Path, dtype: str) -> None:
        """Write the classifier's files into ``folder``."""


@dataclass(frozen=True)
class HeadStep:
    """One optimiser step, complete."""

    epoch: int
    """From 1 on."""
    examples: tuple[int, ...]
    lr: float
    closes: bool
    """Whether it is the last of its epoch."""


@dataclass(frozen=True)
class Task:
    """All that one training needs."""

    config: HeadTrainingConfig
    base: str
    """Directory or hub name of the model that it starts from."""
    source: Path | None
    """Its files, whose tokenizer goes along."""
    reader: Reader
    parts: Parts
    out: Path
    told: dict[str, Any] = field(default_factory=dict)
    """Where the data come from, for ``results.json``."""

    @property
    def model(self) -> Path:
        """Where the model will be."""
        return self.out / "model"


def plan(lengths: Sequence[int], config: HeadTrainingConfig) -> list[HeadStep]:
    """Return all steps; every epoch has its own order. ``lengths`` [n] in tokens."""
    drawn: list[tuple[int, tuple[int, ...], bool]] = []
    for epoch in range(1, config.epochs + 1):
        order = list(range(len(lengths)))
        Random(seed_of(config.seed, "head", epoch)).shuffle(order)
        cut = batches(lengths, config.batch_tokens, order)
        drawn += [(epoch, batch, number == len(cut)) for number, batch in enumerate(cut, 1)]
    peak = config.learner.optimizer.lr
    return [
        HeadStep(epoch, batch, learning_rate(at, len(drawn), peak), closes)
        for at, (epoch, batch, closes) in enumerate(drawn)
    ]


class Best:
    """The epoch that did best on the validation part so far: its model, and what it made of the parts."""

    def __init__(self, task: Task, policy: Trainee) -> None:
        self.folder, self._task, self._policy = task.out / BEST, task, policy

    @property
    def told(self) -> dict[str, Any]:
        """Its epoch and its cross-entropy; empty without one."""
        file = self.folder / "epoch.json"
        found: dict[str, Any] = json.loads(file.read_bytes()) if file.exists() else {}
        return found

    def offer(self, epoch: int, validation: Judged) -> None:
        """Keep the learner's present weights if they do better; an epoch that is run again replaces itself.

        Raises ``NonFiniteGradients``.
        """
        from rl.learner.learner import NonFiniteGradients

        nats, before = validation.nats(), self.told
        if not np.isfinite(nats):
            raise NonFiniteGradients(f"epoch {epoch}: the logits are not finite; lower learner.optimizer.lr")
        if before and nats >= before["nats"] and epoch != before["epoch"]:
            return
        heldout = judge(self._policy, self._task.parts.heldout)
        with replacing_folder(self.folder) as aside:
            write_model(self._task, self._policy, aside / "model", self._task.reader.card)
            np.savez(aside / "logits.npz", validation=validation.logits, heldout=heldout.logits)
            (aside / "epoch.json").write_text(json.dumps({"epoch": epoch, "nats": nats}))

    def parts(self) -> tuple[Judged, Judged]:
        """Return what it made of the validation and the held-out part."""
        with np.load(self.folder / "logits.npz") as kept:
            return (
                Judged(self._task.parts.validation, kept["validation"]),
                Judged(self._task.parts.heldout, kept["heldout"]),
            )


def judge(policy: Trainee, examples: tuple[Example, ...]) -> Judged:
    """Return what the learner makes of ``examples`` under its present weights."""
    from rl.learner.batch import pack_labelled
    from rl.objectives.classes import Classes

    found = policy.judged(pack_labelled([example.ids for example in examples]), Classes(len(CLASSES)).needs)
    return Judged(examples, found.head.double().numpy())


def write_model(task: Task, policy: Trainee, folder: Path, card: Card) -> None:
    """Write classifier, tokenizer and card into ``folder``. Raises ``ExportError`` and ``OSError``."""
    from rollout.models.classifier import describe

    tokenizer = task.reader.tokenizer
    policy.export(folder, task.config.model.export_dtype)
    with writing(folder):
        describe(folder, card.classes, tokenizer.pad_token_id)
        save_tokenizer(tokenizer, folder, task.source)
        write_card(folder, card)


def read_back(folder: Path, examples: Sequence[Example]) -> Floats:
    """Return the logits [n, classes] of ``examples`` by transformers, from the files in ``folder``."""
    from rollout.reward_models.head import load_classifier

    classifier = load_classifier(str(folder))
    return np.concatenate([classifier.logits([example.ids]) for example in examples])


def rehearse(task: Task, policy: Trainee) -> None:
    """Write and read the model as it is, before anything is spent; raises what would have failed at the end."""
    shortest = tuple(sorted(task.parts.heldout, key=lambda one: len(one.ids))[:COMPARED])
    ours = judge(policy, shortest).logits
    trial = task.out / ".rehearsal"
    try:
        shutil.rmtree(trial, ignore_errors=True)
        write_model(task, policy, trial, task.reader.card)
        gap = float(np.abs(read_back(trial, shortest) - ours).max())
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    keys = task.config.model
    if not gap <= (ROUNDED if "bfloat16" in (keys.compute_dtype, keys.export_dtype) else EXACT):  # NaN, too
        raise ExportError(
            f"{task.base}: transformers' classifier of it computes other logits than the learner (by {gap:.2g}): "
            "its architecture cannot be trained as a reward model"
        )


def train(task: Task, stopper: Stopper, watch: Progress) -> dict[str, Any]:
    """Train, calibrate, measure and write; goes on from the last checkpoint. Returns the results, as written."""
    began = time.monotonic()
    if (results := written(task.out)) is not None:  # killed before it could tell
        tidy(task)
        return results
    with ExitStack() as stack:
        watch.stage("starting the learner")
        with stopper.interruptible():
            run = task.config.run
            policy = Site(run, stack, stopper.claim).learner(run, task.base)
        best = Best(task, policy)
        if not best.told:
            watch.stage("rehearsing the export")
            rehearse(task, policy)
        epochs = learn(task, policy, best, stopper, watch)
    watch.stage("calibrating and measuring")
    return conclude(task, best, epochs, time.monotonic() - began)


def learn(task: Task, policy: Trainee, best: Best, stopper: Stopper, watch: Progress) -> int:
    """Carry out the plan; return the number of epochs."""
    from rl.learner.batch import pack_labelled
    from rl.objectives.classes import Classes

    objective, examples = Classes(len(CLASSES)), task.parts.train
    steps = plan([len(example.ids) for example in examples], task.config)
    losses: list[float] = []

    def act(number: int, step: HeadStep) -> str:
        chosen = [examples[index] for index in step.examples]
        batch = pack_labelled([one.ids for one in chosen], [[one.label] for one in chosen])
        done = policy.step(batch, objective, step.lr)
        losses.append(done.loss)
        accuracy = done.tallies["objective/accuracy"].value
        log.write(number, {"epoch": step.epoch, "loss": done.loss, "accuracy": accuracy, "lr": done.lr})
        if step.closes:
            validation = judge(policy, task.parts.validation)
            best.offer(step.epoch, validation)
            right = float(np.mean(validation.logits.argmax(axis=1) == validation.labels))
            epochs.write(step.epoch, {"nats": validation.nats(), "accuracy": right})
        return f"epoch {step.epoch}, loss {fmean(losses[-SHOWN_STEPS:]):.3f}"

    every = max(1, len(steps) // CHECKPOINTS)
    with closing(StepLog(task.out / "log.jsonl")) as log, closing(StepLog(task.out / "epochs.jsonl")) as epochs:
        carry_out("reward model", steps, act, policy, task.out / "checkpoints", every, watch, stopper)
    return task.config.epochs


def conclude(task: Task, best: Best, epochs: int, seconds: float) -> dict[str, Any]:
    """Fit the temperature, write model, card, plot, verdicts and ``results.json``; return the last."""
    validation, heldout = best.parts()
    temperature = fit_temperature(validation.logits, validation.labels)
    some = heldout.examples[:COMPARED]
    gap = float(np.abs(read_back(best.folder / "model", some) - heldout.logits[: len(some)]).max())
    results = {
        "schema": SCHEMA,
        **task.told,
        "train": {"responses": len(task.parts.train), "classes": balance(task.parts.train)},
        "left_out": dict(task.parts.left_out),
        "epochs_trained": epochs,
        "best_epoch": best.told["epoch"],
        "temperature": temperature,
        "validation": measures(validation, temperature),
        "heldout": measures(heldout, temperature),
        "export_gap": gap,
        "seconds": seconds,
        "model_path": str(task.model),
    }
    write_card(best.folder / "model", task.reader.card.model_copy(update={"temperature": temperature}))
    with replacing_folder(task.model) as aside:  # a part of it would be asked as anybody's classifier
        shutil.copytree(best.folder / "model", aside, dirs_exist_ok=True)
    labels = heldout.labels
    title = f"{len(labels)} held-out responses, {task.base}"
    before, after = bins(heldout.right(), labels), bins(heldout.right(temperature), labels)
    write_png(task.out / "reliability.png", before, after, title)
    write_verdicts(task.out / "heldout.jsonl", heldout, temperature)
    write_results(task.out, results)
    tidy(task)
    return results


def tidy(task: Task) -> None:
    """Remove what a finished training no longer needs."""
    for spent in (BEST, "checkpoints"):
        shutil.rmtree(task.out / spent, ignore_errors=True)
