"""Four ways from long reasoning to short."""

from __future__ import annotations

from typing import Any

import numpy as np

from recipes.evidence.base import LONGEST, policy
from recipes.evidence.base import SCALE as SCALE
from recipes.evidence.bench.drawing import COLORS
from recipes.evidence.bench.finding import Arms, Bench, Floats, Judgement, Results, Row, above, all_of, estimate, shown
from recipes.evidence.bench.trial import Outcome, Trial
from recipes.long2short import config as recipe
from recipes.shorten.efficiency import efficiency
from recipes.shorten.results import TITLES
from rl.config import RunConfig

TITLE = "Of the ways to shorten, RL has the most accuracy per token"
PAPER = "k1.5 §3.4, Figure 7"
CLAIM = "Token efficiency: long2short RL, then DPO, then merging and rejection sampling."
PUBLISHED = "AIME 2024 pass@1 60.8 at 3,272 tokens by RL, the best of all (figure)"
OTHERS = ("merge", "rejection", "merge_rejection", "dpo")


def trial(seed: int) -> Trial:
    """Return the shortening of a seed's policy, which is merged with the warm-up that it comes from."""
    long = policy(seed)
    assert isinstance(long.config, RunConfig)
    config = recipe()
    phase = config.rl.model_copy(update={"max_tokens": 2 * LONGEST // 3})
    return Trial(config.model_copy(update={"run": long.config, "rl": phase}), long)


def arms(bench: Bench) -> Arms:
    """Shorten each seed's policy in all ways."""
    return {"shortened": [trial(seed) for seed in bench.seeds]}


def judge(results: Results) -> Judgement:
    """Compare accuracy per token, in points per 100 tokens, of RL with each of the others."""

    def values(name: str) -> Floats:
        return results.values("shortened", lambda outcome: _efficiency(outcome, name))

    gains = {name: estimate(values("rl") - values(name)) for name in OTHERS}
    told = "; ".join(f"{TITLES[name]} {shown(gain, 1)}" for name, gain in gains.items())
    text = f"Points of accuracy for 100 tokens, RL above the others: {told}."
    known = [one for one in results.arms["shortened"] if one.failed is None]

    def draw(axes: Any) -> None:
        for number, name in enumerate(TITLES):
            points = [_place(one, name) for one in known if name in one.variants]
            axes.plot(
                [x for x, _ in points],
                [y for _, y in points],
                "o",
                color=COLORS[number % len(COLORS)],
                label=TITLES[name],
            )
        axes.set(xlabel="held-out tokens of a response", ylabel="held-out accuracy")
        axes.legend(frameon=False, fontsize=8)

    rows = [Row(f"{title}, points per 100 tokens", estimate(values(name))) for name, title in TITLES.items()]
    return Judgement(all_of([above(gain) for gain in gains.values()]), text, tuple(rows), draw)


def _efficiency(outcome: Outcome, name: str) -> float:
    """Return it; NaN for a way that could not be gone, without pairs, say."""
    return efficiency(outcome.variants[name]).mean if name in outcome.variants else np.nan


def _place(outcome: Outcome, name: str) -> tuple[float, float]:
    one = outcome.variants[name]
    return one.tokens.mean, one.accuracy.mean
