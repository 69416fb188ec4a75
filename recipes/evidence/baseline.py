"""The baseline of mirror descent: the mean reward, or the exact log-partition."""

from __future__ import annotations

from typing import Any

from recipes.evidence.base import SCALE as SCALE
from recipes.evidence.base import arm, curve, held_out, learning
from recipes.evidence.bench.drawing import courses
from recipes.evidence.bench.finding import Arms, Bench, Judgement, Results, Row, above, estimate, shown

TITLE = "The mean reward is as good a baseline as the log-partition"
PAPER = "k1.5 §2.3.2"
CLAIM = "In place of tau log mean exp(r / tau) the mean of the sampled rewards works well in practice."
PUBLISHED = "no figure"
MARGIN = 0.03


def arms(bench: Bench) -> Arms:
    """Train with both."""
    return {"mean": arm(bench), "exp-mean": arm(bench, learner={"objective": {"baseline": "exp_mean"}})}


def judge(results: Results) -> Judgement:
    """See that the mean is no more than 3 points behind over all iterations."""
    difference = estimate(results.values("mean", learning) - results.values("exp-mean", learning))
    end = estimate(results.values("mean", held_out) - results.values("exp-mean", held_out))
    text = (
        f"With the mean, accuracy over all iterations is {shown(difference, 1, 100)} points above that with exp-mean, "
        f"held out in the end {shown(end, 1, 100)}."
    )

    def draw(axes: Any) -> None:
        curves = {name: [curve(one) for one in each if one.failed is None] for name, each in results.arms.items()}
        courses(axes, curves, "iteration", "accuracy of the training responses")

    rows = (Row("mean training accuracy, mean less exp-mean", difference), Row("held out in the end, the same", end))
    return Judgement(above(difference, -MARGIN), text, rows, draw)
