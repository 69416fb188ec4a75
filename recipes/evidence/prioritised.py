"""Prioritised sampling against uniform."""

from __future__ import annotations

from recipes.evidence.base import SCALE as SCALE
from recipes.evidence.bench.finding import Arms, Bench, Judgement, Results
from recipes.evidence.sampling import judged, trials

TITLE = "Problems that fail more, drawn more, beat problems as they come"
PAPER = "k1.5 §2.3.4"
CLAIM = "Problems are drawn in proportion to 1 - their success rate, which directs effort to weak areas."
PUBLISHED = "no figure"


def arms(bench: Bench) -> Arms:
    """Train with both on the same 256 problems."""
    return {name: trials(bench, name) for name in ("uniform", "prioritised")}


def judge(results: Results) -> Judgement:
    """Compare them held out."""
    return judged(results, "prioritised")
