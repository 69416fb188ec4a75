"""The optimiser's state from one iteration to the next."""

from __future__ import annotations

from typing import Any

from recipes.evidence.base import SCALE as SCALE
from recipes.evidence.base import arm, curve, held_out, learning
from recipes.evidence.bench.drawing import courses
from recipes.evidence.bench.finding import Arms, Bench, Judgement, Results, Row, above, estimate, shown

TITLE = "Resetting the optimiser with each iteration costs nothing"
PAPER = "k1.5 §2.3.2"
CLAIM = "Each iteration is another optimisation problem, since its reference is, so the optimiser is reset."
PUBLISHED = "no figure"
MARGIN = 0.03


def arms(bench: Bench) -> Arms:
    """Train with the reset and without."""
    return {"reset": arm(bench), "kept": arm(bench, learner={"optimizer": {"reset_each_iteration": False}})}


def judge(results: Results) -> Judgement:
    """See that the reset is no more than 3 points behind over all iterations."""
    difference = estimate(results.values("reset", learning) - results.values("kept", learning))
    end = estimate(results.values("reset", held_out) - results.values("kept", held_out))
    text = (
        f"With the reset the mean accuracy over all iterations is {shown(difference, 1, 100)} points above that "
        f"without, held out in the end {shown(end, 1, 100)}."
    )

    def draw(axes: Any) -> None:
        curves = {name: [curve(one) for one in each if one.failed is None] for name, each in results.arms.items()}
        courses(axes, curves, "iteration", "accuracy of the training responses")

    rows = (Row("mean training accuracy, reset less kept", difference), Row("held out in the end, the same", end))
    return Judgement(above(difference, -MARGIN), text, rows, draw)
