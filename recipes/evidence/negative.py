"""Mirror descent against ReST: what wrong responses are good for."""

from __future__ import annotations

from typing import Any

from recipes.evidence.base import SCALE as SCALE
from recipes.evidence.base import along, arm, curve, held_out, learning
from recipes.evidence.bench.drawing import courses
from recipes.evidence.bench.finding import Arms, Bench, Judgement, Results, Row, above, estimate, shown
from recipes.evidence.objectives import TUNED, best_rate

TITLE = "Negative gradients learn from fewer samples than ReST"
PAPER = "k1.5 §3.5, Figure 10"
CLAIM = "Against ReST, which fits the right responses alone, wrong ones pushed down give a better sample complexity."
PUBLISHED = "after 50 steps, mean of the benchmarks about 0.65 against 0.59 (figure)"


def arms(bench: Bench) -> Arms:
    """Train with both objectives, each at the best of the same learning rates."""
    found: dict[str, Any] = {}
    for name in ("mirror descent", "ReST"):
        rate, tuning = best_rate(bench, name)
        if rate is None:
            found[f"{name}, tuning"] = tuning
        else:
            found[name] = arm(bench, learner={"objective": TUNED[name], "optimizer": {"lr": rate}})
    return found


def judge(results: Results) -> Judgement:
    """Compare the mean accuracy over all iterations, which is what samples buy."""
    mirror, rest = results.values("mirror descent", learning), results.values("ReST", learning)
    difference = estimate(mirror - rest)
    ends = estimate(results.values("mirror descent", held_out) - results.values("ReST", held_out))
    text = (
        f"Over all iterations mirror descent is {shown(difference, 1, 100)} points above ReST, held out in the end "
        f"{shown(ends, 1, 100)}."
    )
    curves = {
        name: [curve(one) for one in results.arms[name] if one.failed is None] for name in ("mirror descent", "ReST")
    }

    def draw(axes: Any) -> None:
        courses(axes, curves, "iteration", "accuracy of the training responses")

    rows = (
        Row("mean training accuracy, mirror descent less ReST", difference),
        Row(
            "mean held-out accuracy, the same",
            estimate(results.values("mirror descent", along) - results.values("ReST", along)),
        ),
        Row("held-out accuracy in the end, the same", ends),
    )
    return Judgement(above(difference), text, rows, draw)
