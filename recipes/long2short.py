"""long2short on the demo model: all four ways and their combination on two CPU cores, judged on one plot
[2501.12599 §2.4].

`make long2short` after `make demo`. The demo's policy works steps out twice, which a surer policy need not: about
half of its tokens can go. docs/long2short.md has the figures of six runs.
"""

from __future__ import annotations

from recipes.quickstart import config as quickstart
from recipes.shorten.config import (
    DpoConfig,
    FineTuneConfig,
    JudgeConfig,
    SampleConfig,
    SecondPhaseConfig,
    ShortenConfig,
)
from rl.config import LengthRewardConfig

DESCRIPTION = "the demo model's long reasoning made short, four ways: k15 shorten runs/demo --recipe long2short"


def config() -> ShortenConfig:
    """Return settings sized for a model of 0.6 million parameters.

    The second phase's cap is two thirds of the first one's. Under half of it hardly any response of the long policy
    fits: most groups are then all wrong, only the length reward tells their responses apart, and one seed of three
    unlearned to calculate (docs/log.md).
    """
    return ShortenConfig(
        recipe="long2short",
        run=quickstart(),
        sample=SampleConfig(problems=256, n=8),
        rejection=FineTuneConfig(epochs=2, batch_tokens=1500, lr=1e-3),
        dpo=DpoConfig(beta=1.0, lr=5e-5, batch_pairs=32),
        rl=SecondPhaseConfig(
            iterations=40,
            max_tokens=160,
            length=LengthRewardConfig(weight=0.5, start_iteration=0),
            selection_problems=64,
        ),
        judge=JudgeConfig(samples=4),
    )
