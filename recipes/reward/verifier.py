"""``k15 train verifier``: an outcome verifier from few labels, by Rank-aware Negative Training [2306.07621].

labelled ──cross-entropy──> predictions on the unlabelled ──ranked by evidence──> the half that is kept
labelled + kept ──negative training of the same model afresh──> the verifier, with evidence from the labelled
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from recipes.reward.data import Example
from recipes.reward.results import write_results, written
from recipes.reward.verifier_config import VerifierTrainingConfig
from recipes.reward.verifier_data import Few
from recipes.reward.verifier_results import SCHEMA, classified, rewarded
from recipes.reward.verifier_teachers import Array, Negative, Positive, Teacher
from recipes.reward.verifier_teaching import Progressed, Texts, Trainee, judged, teach
from recipes.run.launching import Site
from rewards.models.evidence import EvidenceBins
from rewards.models.neighbours import Neighbours
from rewards.models.ranking import Predicted, confident, rank
from rl.learner.spec import LearnerSpec
from rl.state.disk import writing
from rl.stop import Stopper
from rollout.files import replace_file
from rollout.models.export import ExportError, save_tokenizer
from rollout.progress import Progress
from rollout.reward_models.card import write_card
from rollout.reward_models.evidence import Evidence, write_evidence
from rollout.reward_models.labelled import RIGHT
from rollout.reward_models.reading import Reader
from rollout.strict_json import dumps

if TYPE_CHECKING:
    from rl.learner.host import LearnerHost

COMPARED = 16
"""Responses on which the written model is compared with the learner."""
EXACT, ROUNDED = 1e-3, 0.5
"""Largest difference of hidden states as a share of the largest; the second where the learner's forward pass or what is
written is rounded to bfloat16."""


class Learns(Trainee, Protocol):
    """A learner that can begin afresh, and write what it has learnt."""

    def replace(self, spec: LearnerSpec, model_path: Path | str) -> None:
        """Replace it by one that has learnt nothing."""

    def export(self, folder: Path, dtype: str) -> None:
        """Write the model's files into ``folder``."""


@dataclass(frozen=True)
class VerifierTask:
    """All that one training needs."""

    config: VerifierTrainingConfig
    base: str
    """Directory or hub name of the model that both trainings start from."""
    source: Path | None
    """Its files, whose tokenizer goes along."""
    reader: Reader
    data: Few
    out: Path
    told: dict[str, Any] = field(default_factory=dict)
    """Where the data come from, for ``results.json``."""

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.data.classes)

    @property
    def positive(self) -> Teacher:
        """What the first training teaches."""
        keys, labels = self.config.positive, self.data.texts(self.data.train).labels
        return Positive(labels, self.classes, keys.epochs, keys.batch, self.lr, self.config.at)

    def negative(self, labels: Sequence[int]) -> Teacher:
        """Return what the second training teaches; ``labels``: of labelled and kept responses."""
        keys = self.config.negative
        return Negative(
            labels,
            self.classes,
            keys.epochs,
            keys.batch,
            self.lr,
            switch=keys.switch,
            seed=self.config.seed,
            draws=keys.draws,
            history=keys.history,
            decay=keys.decay,
            at=self.config.at,
        )

    @property
    def lr(self) -> float:
        """Learning rate of both trainings."""
        return self.config.learner.optimizer.lr


@dataclass(frozen=True)
class Predictions:
    """What the first training makes of all responses."""

    known: tuple[Array, Array]
    """Probabilities [n, classes] and hidden states [n, d] of the labelled ones that evidence is taken from."""
    unlabelled: tuple[Array, Array]
    heldout: Array
    """Probabilities [m, classes]."""


@dataclass(frozen=True)
class Kept:
    """Which predictions are learnt from."""

    chosen: tuple[int, ...]
    texts: tuple[Predicted, ...]
    """Of all unlabelled responses."""

    def of(self, unlabelled: Sequence[Example]) -> Texts:
        """Return the chosen ones with their predictions as labels."""
        return Texts(
            tuple(unlabelled[index].ids for index in self.chosen),
            tuple(self.texts[index].label for index in self.chosen),
        )


def train(task: VerifierTask, stopper: Stopper, watch: Progress) -> dict[str, Any]:
    """Carry out both trainings, measure and write; goes on from what is there. Returns the results, as written."""
    began, stages = time.monotonic(), task.out / "stages"
    if (results := written(task.out)) is not None:  # killed before it could tell
        shutil.rmtree(stages, ignore_errors=True)
        return results
    with ExitStack() as stack:
        watch.stage("starting the learner")
        run = task.config.run(task.classes)
        with stopper.interruptible():
            policy: LearnerHost | Any = Site(run, stack, stopper.claim).learner(run, task.base)
        file = stages / "predictions.npz"
        if not file.exists():
            if not stages.exists():
                watch.stage("rehearsing the export")
                rehearse(task, policy)
            predict(task, policy, stages / "positive", file, stopper, watch)
            policy.replace(LearnerSpec.of(run), task.base)
        predictions = read_predictions(file)
        kept = choose(task, predictions)
        learnt, labels = kept.of(task.data.unlabelled), task.data.texts(task.data.train)
        texts, seed = labels + learnt, task.config.seed
        teacher, valid = task.negative(texts.labels), task.data.texts(task.data.validation)
        done = teach("negative training", policy, texts, valid, teacher, stages / "negative", seed, watch, stopper)
        watch.stage("measuring")
        evidence = gather(task, policy, teacher)
        write(task, policy, task.out / "model", evidence)
        results = conclude(task, policy, teacher, predictions, kept, evidence, done)
    results["seconds"] = time.monotonic() - began
    write_results(task.out, results)
    shutil.rmtree(stages, ignore_errors=True)
    return results


def predict(task: VerifierTask, policy: Learns, folder: Path, file: Path, stopper: Stopper, watch: Progress) -> None:
    """Carry out the first training, and write what it makes of all responses into ``file``."""
    data, teacher = task.data, task.positive
    train_part, valid = data.texts(data.train), data.texts(data.validation)
    teach("cross-entropy", policy, train_part, valid, teacher, folder, task.config.seed, watch, stopper)
    watch.stage("predicting")
    p, hidden = judged(policy, [one.ids for one in data.known], teacher.objective)
    more, states = judged(policy, [one.ids for one in data.unlabelled], teacher.objective)
    held = np.zeros((0, task.classes))
    if data.heldout:
        held = judged(policy, [one.ids for one in data.heldout], teacher.objective)[0]
    file.parent.mkdir(parents=True, exist_ok=True)  # so short a training has no checkpoint
    aside = file.with_name(f".{file.name}")  # a name that ends in .npz: savez would add it
    np.savez(aside, p=p, hidden=hidden, more=more, states=states, held=held)
    aside.rename(file)
    shutil.rmtree(folder, ignore_errors=True)


def read_predictions(file: Path) -> Predictions:
    """Return what ``predict`` wrote."""
    with np.load(file) as kept:
        return Predictions((kept["p"], kept["hidden"]), (kept["more"], kept["states"]), kept["held"])


def choose(task: VerifierTask, predictions: Predictions) -> Kept:
    """Return which predictions on unlabelled responses are learnt from, and write them into ``kept.jsonl``."""
    near, bins = fitted(task, *predictions.known)
    texts = tuple(near.predicted(*predictions.unlabelled))
    if task.config.filtering == "evidence":
        chosen = rank(texts, bins, task.config.evidence.keep).chosen
    elif task.config.filtering == "confidence":
        chosen = confident(texts, task.config.confidence)
    else:
        chosen = tuple(range(len(texts)))
    rows = []
    for index in chosen:
        combined = bins.about(texts[index].features, texts[index].label)
        told = {} if combined is None else {**combined.mass._asdict(), "conflict": combined.conflict}
        name = task.data.classes[texts[index].label]
        rows.append({"id": task.data.unlabelled[index].row.id, "label": name, "p": texts[index].probability, **told})
    replace_file(task.out / "kept.jsonl", "".join(dumps(row) + "\n" for row in rows).encode())
    return Kept(chosen, texts)


def fitted(task: VerifierTask, probabilities: Array, hidden: Array) -> tuple[Neighbours, EvidenceBins]:
    """Return neighbours and bins from the labelled responses, by what a model makes of them."""
    keys, gold = task.config.evidence, task.data.texts(task.data.known).labels
    near = Neighbours.draw(hidden, gold, task.classes, task.config.seed, keys.neighbours)
    known = near.predicted(probabilities, hidden, own=range(len(gold)))
    return near, EvidenceBins.fit([text.features for text in known], gold, task.classes, keys.uncertainty)


def gather(task: VerifierTask, policy: Learns, teacher: Teacher) -> Evidence:
    """Return the evidence that the finished verifier goes by: features are of its own making now."""
    near, bins = fitted(task, *judged(policy, [one.ids for one in task.data.known], teacher.objective))
    limits = task.config.abstain
    return Evidence(task.data.classes, task.config.at, bins, near, limits.uncertainty, limits.conflict)


def write(task: VerifierTask, policy: Learns, folder: Path, evidence: Evidence) -> None:
    """Write model, tokenizer, card and evidence into ``folder``. Raises ``ExportError`` and ``OSError``."""
    from rollout.models.classifier import describe

    shutil.rmtree(folder, ignore_errors=True)
    tokenizer, card = task.reader.tokenizer, task.reader.card.model_copy(update={"classes": task.data.classes})
    policy.export(folder, task.config.model.export_dtype)
    with writing(folder):
        describe(folder, card.classes, tokenizer.pad_token_id)
        save_tokenizer(tokenizer, folder, task.source)
        write_evidence(folder, evidence)
        write_card(folder, card)  # last: a folder with a card is whole


def rehearse(task: VerifierTask, policy: Learns) -> None:
    """Write and read the model as it is, before anything is spent; raises what would have failed at the end."""
    trial, teacher = task.out / ".rehearsal", task.positive
    try:
        write(task, policy, trial, gather(task, policy, teacher))
        gap = gap_of(task, policy, teacher, trial)
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    keys = task.config.model
    if not gap <= (ROUNDED if "bfloat16" in (keys.compute_dtype, keys.export_dtype) else EXACT):  # NaN, too
        raise ExportError(
            f"{task.base}: read back, it computes other hidden states than the learner (by {gap:.2g} of the largest): "
            "its architecture cannot be trained as a verifier"
        )


def gap_of(task: VerifierTask, policy: Learns, teacher: Teacher, folder: Path) -> float:
    """Return how far hidden states of the written model are from the learner's, as a share of the largest."""
    from rollout.reward_models.verifier import load_trained

    some = [one.ids for one in sorted(task.data.known, key=lambda one: len(one.ids))[:COMPARED]]
    ours, theirs = judged(policy, some, teacher.objective)[1], load_trained(str(folder)).outputs(some)[1]
    return float(np.abs(ours - theirs).max() / np.abs(ours).max())


def conclude(
    task: VerifierTask,
    policy: Learns,
    teacher: Teacher,
    predictions: Predictions,
    kept: Kept,
    evidence: Evidence,
    done: Progressed,
) -> dict[str, Any]:
    """Return the results: what was learnt from, and how the verifier does on held-out responses."""
    data, held = task.data, task.data.heldout
    results: dict[str, Any] = {
        "schema": SCHEMA,
        **task.told,
        "classes": data.classes,
        "labelled": data.counts,
        "unlabelled": {"responses": len(data.unlabelled), "kept": len(kept.chosen)},
        "left_out": dict(data.left_out),
        "best_epoch": done.best,
        "epochs": done.epochs,
        "export_gap": gap_of(task, policy, teacher, task.out / "model"),
        "heldout": None,
        "heldout_positive": None,
        "model_path": str(task.out / "model"),
    }
    if held:
        gold = data.texts(held).labels
        p, hidden = judged(policy, [one.ids for one in held], teacher.objective)
        results["heldout"] = classified(held, p, gold, data.classes)
        results["heldout_positive"] = classified(held, predictions.heldout, gold, data.classes)
        if RIGHT in data.classes:
            results["reward"] = rewarded(held, evidence.opinions(p, hidden))
    return results
