"""What a verifier is worth, as numbers: its classes, and its P(right) where it has an opinion."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from recipes.reward.data import Example
from recipes.reward.results import doubts
from recipes.reward.verifier_teachers import Array, macro_f1
from rewards.models.calibration import bins, brier, calibration_error, separation
from rewards.stats import Estimate, share_ci
from rollout.reward_models.evidence import abstentions
from rollout.reward_models.labelled import RIGHT
from rollout.reward_models.opinion import Opinion

SCHEMA = "k15.verifier/1"


def share(examples: Sequence[Example], hits: Sequence[bool]) -> Estimate:
    """Return the share of hits with an interval over questions."""
    by_question: dict[str, list[float]] = defaultdict(list)
    for example, hit in zip(examples, hits, strict=True):
        by_question[example.question].append(float(hit))
    return share_ci(list(by_question.values()))


def by_class(predicted: Sequence[int], gold: Sequence[int], classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return precision, recall and number of each class; ``None`` where there is nothing to divide by."""
    found, truth = np.asarray(predicted), np.asarray(gold)
    rows: dict[str, dict[str, Any]] = {}
    for label, name in enumerate(classes):
        hits = int(((found == label) & (truth == label)).sum())
        said, there = int((found == label).sum()), int((truth == label).sum())
        rows[name] = {
            "precision": hits / said if said else None,
            "recall": hits / there if there else None,
            "predicted": said,
            "responses": there,
        }
    return rows


def classified(
    examples: Sequence[Example], probabilities: Array, gold: Sequence[int], classes: Sequence[str]
) -> dict[str, Any]:
    """Return how well classes are told apart."""
    called = probabilities.argmax(1)
    found = share(examples, (called == np.asarray(gold)).tolist())
    return {
        "responses": len(gold),
        "questions": found.n,
        "accuracy": found.mean,
        "ci95": [found.low, found.high],
        "macro_f1": macro_f1(called.tolist(), gold, len(classes)),
        "always_the_commonest": max(np.bincount(gold)) / len(gold),
        "classes": by_class(called.tolist(), gold, classes),
    }


def rewarded(examples: Sequence[Example], opinions: Sequence[Opinion]) -> dict[str, Any]:
    """Return how good P(right) is as a reward, of those with an opinion."""
    pairs = [(example, one.right) for example, one in zip(examples, opinions, strict=True) if one.right is not None]
    told: dict[str, Any] = {
        "opinions": len(pairs),
        "abstained": len(examples) - len(pairs),
        "why": abstentions(opinions),
    }
    if not pairs:
        return told | {"accuracy": None, "ci95": None, "auc": None, "ece": None, "brier": None}
    p = np.array([right for _, right in pairs])
    labels = [int(example.row.label == RIGHT) for example, _ in pairs]
    found = share([example for example, _ in pairs], ((p >= 0.5) == np.asarray(labels)).tolist())
    return told | {
        "accuracy": found.mean,
        "ci95": [found.low, found.high],
        "auc": separation(p, labels),
        "ece": calibration_error(bins(p, labels)),
        "brier": brier(p, labels),
    }


def table(results: dict[str, Any]) -> str:
    """Return the results for the terminal."""
    learnt = results["unlabelled"]
    lines = [
        f"labelled {sum(results['labelled']['train'].values())} + {sum(results['labelled']['validation'].values())} "
        f"(validation), unlabelled {learnt['responses']}, of which {learnt['kept']} are learnt from "
        f"({results['config']['filtering']})"
    ]
    if (held := results["heldout"]) is not None:
        lines += [f"{'held out':<12}{'responses':>10}{'accuracy':>10}  95 %            macro F1"]
        for name, part in (("labels alone", results["heldout_positive"]), ("verifier", held)):
            low, high = part["ci95"]
            lines.append(
                f"{name:<12}{part['responses']:>10}{part['accuracy']:>10.1%}  [{100 * low:.1f}, {100 * high:.1f}]"
                f"    {part['macro_f1']:.3f}"
            )
        lines += [f"{'':<12}{'responses':>10}{'precision':>10}{'recall':>8}"]
        for name, row in held["classes"].items():
            lines.append(
                f"{name:<12}{row['responses']:>10}{_percent(row['precision']):>10}{_percent(row['recall']):>8}"
            )
    if (reward := results.get("reward")) is not None:
        said = f"P(right): {reward['opinions']} opinions, {reward['abstained']} abstained"
        if reward["accuracy"] is not None:
            low, high = reward["ci95"]
            auc = "-" if reward["auc"] is None else f"{reward['auc']:.3f}"
            said += f"; {reward['accuracy']:.1%} [{100 * low:.1f}, {100 * high:.1f}] right, AUC {auc}"
            said += f", ECE {reward['ece']:.3f}"
        lines += [said, *doubts(reward["auc"])]
    if len(results["classes"]) == 2:
        lines.append("two classes: negative training is cross-entropy then; label more outcomes to gain from it")
    if left := ", ".join(f"{count} {why}" for why, count in results["left_out"].items()):
        lines.append(f"left out: {left}")
    return "\n".join([*lines, f"model {results['model_path']}"])


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
