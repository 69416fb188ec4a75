"""The baseline of mirror descent: the mean reward, or the exact log-partition."""

from __future__ import annotations

from recipes.evidence.alike import judged
from recipes.evidence.base import SCALE as SCALE
from recipes.evidence.base import arm
from recipes.evidence.bench.finding import Arms, Bench, Judgement, Results

TITLE = "The mean reward is as good a baseline as the log-partition"
PAPER = "k1.5 §2.3.2"
CLAIM = "In place of tau log mean exp(r / tau) the mean of the sampled rewards works well in practice."
PUBLISHED = "no figure"


def arms(bench: Bench) -> Arms:
    """Train with both."""
    return {"the mean": arm(bench), "exp-mean": arm(bench, learner={"objective": {"baseline": "exp_mean"}})}


def judge(results: Results) -> Judgement:
    """See that the mean is no more than 3 points behind over all iterations."""
    return judged(results, "the mean", "exp-mean")
