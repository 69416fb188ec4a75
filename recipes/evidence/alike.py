"""A choice that costs nothing: an arm that is no more than three points behind another."""

from __future__ import annotations

from typing import Any

from recipes.evidence.base import curve, held_out, learning
from recipes.evidence.bench.drawing import courses
from recipes.evidence.bench.finding import Judgement, Results, Row, above, estimate, shown

MARGIN = 0.03


def judged(results: Results, ours: str, other: str) -> Judgement:
    """Compare two arms by the mean accuracy over all iterations."""
    during, end = (
        estimate(results.values(ours, score) - results.values(other, score)) for score in (learning, held_out)
    )
    text = (
        f"Over all iterations the accuracy with {ours} is {shown(during, 1, 100)} points above that with {other}, held "
        f"out in the end {shown(end, 1, 100)}."
    )

    def draw(axes: Any) -> None:
        curves = {name: [curve(one) for one in each if one.failed is None] for name, each in results.arms.items()}
        courses(axes, curves, "iteration", "accuracy of the training responses")

    rows = (
        Row(f"mean training accuracy, {ours} less {other}", during),
        Row("held-out accuracy in the end, the same", end),
    )
    return Judgement(above(during, -MARGIN), text, rows, draw)
