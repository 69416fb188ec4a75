"""What a classifier is worth, as numbers: accuracy with its interval, calibration, separation."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recipes.reward.data import Example, balance
from rewards.models.calibration import Floats, bins, brier, calibration_error, cross_entropy, probabilities, separation
from rewards.stats import Estimate, share_ci
from rollout.files import replace_file
from rollout.reward_models.labelled import RIGHT
from rollout.strict_json import dumps

USEFUL = 0.6
"""AUC below which P(right) is said to be of no use; 0.5 is chance."""
SCHEMA = "k15.reward/1"
RESULTS = "results.json"


@dataclass(frozen=True)
class Judged:
    """A part of the data, and what the model made of it."""

    examples: tuple[Example, ...]
    logits: Floats
    """[n, classes]."""

    @property
    def labels(self) -> list[int]:
        """[n]."""
        return [example.label for example in self.examples]

    def right(self, temperature: float = 1.0) -> Floats:
        """Return P(right) [n]."""
        found: Floats = probabilities(self.logits, temperature)[:, 1]
        return found

    def nats(self, temperature: float = 1.0) -> float:
        """Return the cross-entropy, nats a response."""
        return cross_entropy(self.logits, self.labels, temperature)


def accuracy(judged: Judged) -> Estimate:
    """Return the share of responses that are called what they are, with an interval over questions.

    The temperature does not change it.
    """
    called = (judged.right() >= 0.5).astype(int)
    by_question: dict[str, list[float]] = defaultdict(list)
    for example, one in zip(judged.examples, called, strict=True):
        by_question[example.question].append(float(example.label == one))
    return share_ci(list(by_question.values()))


def measures(judged: Judged, temperature: float) -> dict[str, Any]:
    """Return all numbers of a part, before and after calibration."""
    found, labels = accuracy(judged), judged.labels
    p = judged.right(temperature)
    counts = balance(judged.examples)
    return {
        "responses": len(labels),
        "questions": found.n,
        "classes": counts,
        "accuracy": found.mean,
        "ci95": [found.low, found.high],
        "always_the_commoner": max(counts.values()) / len(labels),
        "auc": separation(p, labels),
        "ece": calibration_error(bins(p, labels)),
        "ece_before": calibration_error(bins(judged.right(), labels)),
        "nats": judged.nats(temperature),
        "nats_before": judged.nats(),
        "brier": brier(p, labels),
        "bins": [asdict(one) for one in bins(p, labels)],
    }


def written(out: Path) -> dict[str, Any] | None:
    """Return the results that lie in ``out``; ``None`` where the training is not done. They are written last of all."""
    file = out / RESULTS
    if not file.exists():
        return None
    found: dict[str, Any] = json.loads(file.read_bytes())
    return found


def write_results(out: Path, results: dict[str, Any]) -> None:
    """Write what ``written`` reads. Raises ``OSError``."""
    replace_file(out / RESULTS, (dumps(results, indent=1) + "\n").encode())


def write_verdicts(path: Path, judged: Judged, temperature: float) -> None:
    """Write one line for each response: id, label and calibrated P(right). Raises ``OSError``."""
    lines = [
        dumps({"id": example.row.id, "label": example.row.label, "right": float(p)})
        for example, p in zip(judged.examples, judged.right(temperature), strict=True)
    ]
    replace_file(path, ("\n".join(lines) + "\n").encode())


def doubts(auc: float | None) -> list[str]:
    """Return a line for a model whose P(right) says next to nothing about held-out responses; ``auc``: theirs."""
    if auc is None or auc >= USEFUL:
        return []
    return [
        f"AUC {auc:.3f}: it hardly tells right from wrong, so nothing should be trained against it; try another "
        "learner.optimizer.lr, more epochs, more labelled responses"
    ]


def table(results: dict[str, Any]) -> str:
    """Return the results for the terminal."""
    head = ("", "responses", "questions", "right", "accuracy", "95 %", "AUC", "ECE", "before")
    form = "{:<12}{:>9}{:>11}{:>7}{:>10}   {:<15}{:>6}{:>8}{:>8}"
    lines = [form.format(*head)]
    for name in ("validation", "heldout"):
        part = results[name]
        low, high = part["ci95"]
        row = (
            *(name, part["responses"], part["questions"], f"{part['classes'][RIGHT] / part['responses']:.0%}"),
            *(f"{part['accuracy']:.1%}", f"[{100 * low:.1f}, {100 * high:.1f}]"),
            *("-" if part["auc"] is None else f"{part['auc']:.3f}", f"{part['ece']:.3f}", f"{part['ece_before']:.3f}"),
        )
        lines.append(form.format(*row))
    left = ", ".join(f"{count} {why}" for why, count in results["left_out"].items())
    trained = results["train"]
    return "\n".join(
        [
            *lines,
            f"learnt from {trained['responses']} responses, {trained['classes'][RIGHT]} of them right; best epoch "
            f"{results['best_epoch']} of {results['epochs_trained']}, temperature {results['temperature']:.3f}",
            f"always saying the commoner class: {results['heldout']['always_the_commoner']:.1%} held out",
            *doubts(results["heldout"]["auc"]),
            *([f"left out: {left}"] if left else []),
            f"model {results['model_path']}, within {results['export_gap']:.1e} of the learner's logits",
        ]
    )
