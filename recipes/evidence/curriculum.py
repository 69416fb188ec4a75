"""Curriculum sampling against uniform."""

from __future__ import annotations

from recipes.evidence.base import SCALE as SCALE
from recipes.evidence.bench.finding import Arms, Bench, Judgement, Results
from recipes.evidence.sampling import judged, trials

TITLE = "Hard problems last beat problems as they come"
PAPER = "k1.5 §3.5, Figure 9"
CLAIM = "Uniform sampling first and hard problems only afterwards ends above uniform sampling throughout."
PUBLISHED = "0.590 against 0.554 at iteration 42, switched at 24 (figure)"


def arms(bench: Bench) -> Arms:
    """Train with both on the same 256 problems."""
    return {name: trials(bench, name) for name in ("uniform", "curriculum")}


def judge(results: Results) -> Judgement:
    """Compare them held out."""
    return judged(results, "curriculum")
