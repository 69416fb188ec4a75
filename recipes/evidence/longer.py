"""Accuracy and length in RL."""

from __future__ import annotations

from typing import Any

import numpy as np

from recipes.evidence.base import SCALE as SCALE
from recipes.evidence.base import arm, curve
from recipes.evidence.bench.drawing import courses
from recipes.evidence.bench.finding import Arms, Bench, Judgement, Results, Row, above, all_of, estimate, shown

TITLE = "Responses grow longer as they become right"
PAPER = "k1.5 §3.3, Figures 5, 6"
CLAIM = "In RL accuracy and response length rise together, and are strongly correlated over checkpoints."
PUBLISHED = "accuracy 0.58 to 0.80, tokens 1,300 to 9,600; strong correlation (figure)"


def arms(bench: Bench) -> Arms:
    """Train without a length reward."""
    return {"RL": arm(bench)}


def judge(results: Results) -> Judgement:
    """Correlate them over iterations, seed by seed."""
    pairs = [(curve(one)[1], curve(one, "length/mean")[1]) for one in results.arms["RL"] if one.failed is None]
    together = estimate(np.array([np.corrcoef(accuracy, length)[0, 1] for accuracy, length in pairs]))
    growth = estimate(np.array([np.mean(length[-3:]) / np.mean(length[:2]) for _, length in pairs]))
    ruling = all_of([above(together, 0.5), above(growth, 1.0)])
    text = (
        f"Their correlation over iterations is {shown(together, 2)}; responses become {shown(growth, 2)} times as long."
    )

    def draw(axes: Any) -> None:
        lines = [(length, accuracy) for accuracy, length in pairs]
        courses(
            axes, {"an iteration each": lines}, "mean tokens of a response", "accuracy of the training responses", "o"
        )

    return Judgement(ruling, text, (Row("correlation", together), Row("tokens, last over first", growth)), draw)
