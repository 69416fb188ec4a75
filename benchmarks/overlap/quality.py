"""What staleness costs: the quickstart with S = 0, 1, 2, 4, with and without the truncated importance weight.

Responses are drawn to their end (``rollout.segment_tokens`` = ``rollout.max_tokens``), so that S bounds the age of
every token; the length reward is off. What differs between the arms is how old the tokens are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loop import config_of
from benchmarks.overlap.runs import measured
from rl.config import OverlapConfig, RunConfig
from rl.objectives.config import ImportanceConfig, MirrorDescentConfig

STALENESS = (0, 1, 2, 4)
CAP = 2.0
"""Of the weight."""


def config(model: Path, seed: int, iterations: int, smoke: bool, staleness: int, weighted: bool) -> RunConfig:
    """Return the configuration of an arm."""
    base = config_of("k15-full", model, seed, iterations, smoke)
    objective = base.learner.objective
    assert isinstance(objective, MirrorDescentConfig)
    importance = ImportanceConfig(cap=CAP) if weighted else None
    learner = base.learner.model_copy(update={"objective": objective.model_copy(update={"importance": importance})})
    evaluation = base.eval.model_copy(update={"every": max(1, iterations // 3), "samples": 1 if smoke else 2})
    return base.model_copy(
        update={
            "learner": learner,
            "overlap": OverlapConfig(max_staleness=staleness),
            "eval": evaluation,
            "checkpoint": base.checkpoint.model_copy(update={"every": iterations}),
        }
    )


def arms(smoke: bool) -> list[tuple[int, bool]]:
    """Return (S, whether weighted) of every arm."""
    return [(staleness, weighted) for weighted in (False, True) for staleness in ((0, 2) if smoke else STALENESS)]


def rows(model: Path, seeds: Sequence[int], iterations: int, smoke: bool) -> Iterator[dict[str, Any]]:
    """Yield the figures of every arm, seed by seed."""
    for seed in seeds:
        for staleness, weighted in arms(smoke):
            name = f"quality/{'smoke-' * smoke}s{staleness}{'-weighted' * weighted}-seed{seed}"
            found = measured(name, config(model, seed, iterations, smoke, staleness, weighted))
            yield {"part": "quality", "staleness": staleness, "weighted": weighted, "seed": seed, **found}


def plot(found: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw what is learnt by iteration, and what is reached in the end, by staleness."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    levels = sorted({row["staleness"] for row in found})
    for place, staleness in enumerate(levels):
        for weighted, line, mark in ((False, "-", "o"), (True, "--", "s")):
            mine = [row for row in found if (row["staleness"], row["weighted"]) == (staleness, weighted)]
            if not mine:
                continue
            curve = np.mean([[accuracy for _, accuracy in row["curve"]] for row in mine], axis=0)
            label = f"S = {staleness}" + ", weighted" * weighted
            left.plot([at for at, _ in mine[0]["curve"]], 100 * curve, line, color=f"C{place}", label=label)
            at = place + (0.15 if weighted else -0.15)
            right.plot([at] * len(mine), [100 * row["accuracy"] for row in mine], mark, color=f"C{place}", alpha=0.4)
            half = half_width(mine)
            right.errorbar(at, 100 * mean_of(mine), 100 * half, fmt=mark, color=f"C{place}", capsize=4)
    left.set_xlabel("iterations")
    left.set_ylabel("held-out accuracy, %")
    left.legend(fontsize=7)
    right.set_ylabel("at the end, %")
    right.set_xticks(range(len(levels)), [f"S = {staleness}" for staleness in levels])
    right.set_xlabel("round: as it is; square: weighted; pale: seeds; 95 %")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def mean_of(found: Sequence[dict[str, Any]]) -> float:
    """Return the mean accuracy over seeds."""
    return float(np.mean([row["accuracy"] for row in found]))


def half_width(found: Sequence[dict[str, Any]]) -> float:
    """Return half the 95 % interval of that mean: of the problems that were drawn, not of the seeds."""
    halves = [(row["ci95"][1] - row["ci95"][0]) / 2 for row in found]
    return float(np.sqrt(np.sum(np.square(halves))) / len(halves))


def summary(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return each arm's accuracy, and how it stands to S = 0 without weights."""
    by_arm: dict[tuple[int, bool], list[dict[str, Any]]] = {}
    for row in found:
        by_arm.setdefault((row["staleness"], row["weighted"]), []).append(row)
    base = by_arm[0, False]
    told = []
    for (staleness, weighted), mine in sorted(by_arm.items()):
        difference = mean_of(mine) - mean_of(base)
        half = float(np.hypot(half_width(mine), half_width(base)))
        told.append(
            {
                "staleness": staleness,
                "weighted": weighted,
                "accuracy": round(mean_of(mine), 4),
                "half_width": round(half_width(mine), 4),
                "difference": round(difference, 4),
                "difference_ci95": [round(difference - half, 4), round(difference + half, 4)],
                "seeds": len(mine),
                "oldness": round(float(np.mean([row["means"].get("staleness/loss_mean", 0.0) for row in mine])), 3),
            }
        )
    return {"part": "quality", "measure": "summary", "arms": told}
