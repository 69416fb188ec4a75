"""The optimiser's state from one iteration to the next."""

from __future__ import annotations

from recipes.evidence.alike import judged
from recipes.evidence.base import SCALE as SCALE
from recipes.evidence.base import arm
from recipes.evidence.bench.finding import Arms, Bench, Judgement, Results

TITLE = "Resetting the optimiser with each iteration costs nothing"
PAPER = "k1.5 §2.3.2"
CLAIM = "Each iteration is another optimisation problem, since its reference is, so the optimiser is reset."
PUBLISHED = "no figure"


def arms(bench: Bench) -> Arms:
    """Train with the reset and without."""
    return {"a reset": arm(bench), "a kept state": arm(bench, learner={"optimizer": {"reset_each_iteration": False}})}


def judge(results: Results) -> Judgement:
    """See that the reset is no more than 3 points behind over all iterations."""
    return judged(results, "a reset", "a kept state")
