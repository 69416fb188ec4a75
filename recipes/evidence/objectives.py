"""k1.5's objective against the others of the field, at equal samples and tuned learning rates."""

from __future__ import annotations

from typing import Any

from recipes.evidence.base import SCALE as SCALE
from recipes.evidence.base import arm, held_out, learning, policy
from recipes.evidence.bench.drawing import dots
from recipes.evidence.bench.finding import Arms, Bench, Judgement, Results, Row, above, all_of, estimate, shown
from recipes.evidence.bench.trial import Trial

TITLE = "Mirror descent is no worse than the clipped objectives"
PAPER = "k1.5 §2.3"
CLAIM = "A simple objective, without value network, clipping or search, suffices."
PUBLISHED = "no comparison"
TUNED: dict[str, dict[str, Any]] = {
    "mirror descent": {"kind": "mirror_descent", "tau": 0.05},
    "REINFORCE": {"kind": "reinforce"},
    "GRPO": {"kind": "grpo"},
    "DAPO": {"kind": "grpo", "clip_high": 0.28, "length_norm": "tokens"},
    "GSPO": {"kind": "grpo", "ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
    "CISPO": {"kind": "cispo"},
    "ReST": {"kind": "rest"},
}
RATES = (3e-4, 1e-3, 3e-3)
TUNING_SEED = 100
MARGIN = 0.03


def best_rate(bench: Bench, name: str) -> tuple[float | None, list[Trial]]:
    """Return the learning rate of an objective with the best learning on a seed of its own; and the trials of that."""
    keys = {rate: {"objective": TUNED[name], "optimizer": {"lr": rate}} for rate in RATES}
    choices = {rate: policy(TUNING_SEED, learner=each) for rate, each in keys.items()}
    return bench.best(choices, learning), [*choices.values()]


def arms(bench: Bench) -> Arms:
    """Tune each, then train it with every seed."""
    found = {}
    for name, objective in TUNED.items():
        rate, tuning = best_rate(bench, name)
        found[f"{name}, tuning"] = tuning
        if rate is not None:
            found[name] = arm(bench, learner={"objective": objective, "optimizer": {"lr": rate}})
    return found


def judge(results: Results) -> Judgement:
    """See that mirror descent is no more than 3 points behind any, over all iterations."""
    ours = results.values("mirror descent", learning)
    gaps = {name: estimate(ours - results.values(name, learning)) for name in TUNED if name != "mirror descent"}
    ruling = all_of([above(gap, -MARGIN) for gap in gaps.values()])
    text = "Over all iterations, points above the others: " + "; ".join(
        f"{name} {shown(gap, 1, 100)}" for name, gap in gaps.items()
    )

    def draw(axes: Any) -> None:
        dots(axes, {name: results.values(name, learning) for name in TUNED}, "mean accuracy over all iterations")

    rows = [Row(f"{name}, mean over iterations", estimate(results.values(name, learning))) for name in TUNED]
    rows += [Row(f"{name}, held out in the end", estimate(results.values(name, held_out))) for name in TUNED]
    return Judgement(ruling, f"{text}.", tuple(rows), draw)
