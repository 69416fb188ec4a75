"""Partial rollouts against whole ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from recipes.evidence.base import SCALE as SCALE
from recipes.evidence.base import arm, held_out
from recipes.evidence.bench.drawing import courses
from recipes.evidence.bench.finding import Arms, Bench, Judgement, Results, Row, above, all_of, estimate, shown
from recipes.evidence.bench.trial import Outcome

TITLE = "Partial rollouts learn as much in less time"
PAPER = "k1.5 §2.6.2"
CLAIM = "Long responses that go on in a later iteration keep the others from waiting, at the same quality."
PUBLISHED = "no figure"
SEGMENT = 64
MARGIN = 0.05


def arms(bench: Bench) -> Arms:
    """Train with whole responses and with segments of 64 tokens."""
    partial = {"segment_tokens": SEGMENT, "loss_on": "all"}
    return {"whole": arm(bench), "partial": arm(bench, rollout=partial)}


def sampling(outcome: Outcome) -> float:
    """Return the seconds of sampling for each thousand tokens of a step's batch."""
    seconds = sum(row["time/generate"] for row in outcome.rows)
    return 1000 * seconds / outcome.summary["tokens_generated"]


def longest(outcome: Outcome) -> float:
    """Return the mean seconds for which an iteration samples."""
    return float(np.mean([row["time/generate"] for row in outcome.rows]))


def judge(results: Results) -> Judgement:
    """Compare the time that an iteration waits for its responses, and the accuracy in the end."""
    saved = estimate(1 - results.values("partial", longest) / results.values("whole", longest))
    rate = estimate(results.values("partial", sampling) / results.values("whole", sampling))
    quality = estimate(results.values("partial", held_out) - results.values("whole", held_out))
    text = (
        f"An iteration samples for {shown(saved, 0, 100)} % less time, a token costs {shown(rate, 2)} times as much, "
        f"and held out the accuracy is {shown(quality, 1, 100)} points above that of whole responses."
    )

    def draw(axes: Any) -> None:
        curves = {}
        for name, each in results.arms.items():
            known = [one for one in each if one.failed is None]
            curves[name] = [
                (
                    np.cumsum([row["time/generate"] for row in one.rows]),
                    [row.get("accuracy", np.nan) for row in one.rows],
                )
                for one in known
            ]
        courses(axes, curves, "seconds of sampling", "accuracy of the finished responses")

    rows = (
        Row("time of an iteration's sampling that is saved", saved),
        Row("seconds for a token, partial over whole", rate),
        Row("held-out accuracy in the end, partial less whole", quality),
    )
    return Judgement(all_of([above(saved), above(quality, -MARGIN)]), text, rows, draw)
