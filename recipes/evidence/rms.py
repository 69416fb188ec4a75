"""The RMS that Muon's update is matched to."""

from __future__ import annotations

from typing import Any

import numpy as np

from recipes.evidence.bench.drawing import COLORS
from recipes.evidence.bench.finding import Arms, Bench, Judgement, Results, Row, above, all_of, estimate
from recipes.evidence.muon import rates
from recipes.evidence.scale import MIDDLE, loss, pretraining
from rl.learner.config import OptimizerConfig

TITLE = "Muon's update RMS has its optimum where AdamW's is"
PAPER = "Moonlight App. A, Table 8"
CLAIM = "At AdamW's learning rate the loss is U-shaped in the RMS of Muon's update, with its minimum at 0.2 to 0.4."
PUBLISHED = "validation loss 3.503, 3.374, 3.325, 3.314, 3.543 at 0.05, 0.1, 0.2, 0.4, 0.8; AdamW 3.679"
SCALE = "90 thousand parameters instead of 800 million; the learning rate is the one that AdamW does best with."
TARGETS = (0.05, 0.1, 0.2, 0.4, 0.8)


def arms(bench: Bench) -> Arms:
    """Train with each RMS at AdamW's learning rate."""
    chosen, tuning = rates(bench, "adamw")
    if chosen is None:
        return {"adamw, tuning": tuning}
    rate = chosen[MIDDLE]
    adamw = OptimizerConfig(kind="adamw", lr=rate, weight_decay=0.1)
    found = {"AdamW": [pretraining(MIDDLE, adamw, seed) for seed in bench.seeds]}
    for target in TARGETS:
        muon = OptimizerConfig(kind="muon", lr=rate, weight_decay=0.1, target_rms=target)
        found[f"{target}"] = [pretraining(MIDDLE, muon, seed) for seed in bench.seeds]
    return found


def judge(results: Results) -> Judgement:
    """Compare the better of 0.2 and 0.4 with both ends."""
    losses = {target: results.values(f"{target}", loss) for target in TARGETS}
    adamw = results.values("AdamW", loss)
    means = {target: estimate(values).mean for target, values in losses.items()}
    known = {target: mean if np.isfinite(mean) else np.inf for target, mean in means.items()}
    middle = min((0.2, 0.4), key=known.__getitem__)
    low, high = (estimate(losses[end] - losses[middle]) for end in (TARGETS[0], TARGETS[-1]))
    least = min(TARGETS, key=known.__getitem__)
    ruling = all_of([above(low), above(high), "holds" if least in (0.2, 0.4) else "does not"])
    text = (
        f"The loss is least at {least}; at {middle} it is lower than at both ends."
        if ruling == "holds"
        else f"The loss is least at {least}."
    )
    if not np.isfinite(known[least]):
        ruling, text = "cannot tell", "No loss was finite."

    def draw(axes: Any) -> None:
        values = np.array([losses[target] for target in TARGETS])
        axes.semilogx(TARGETS, values, "o", color=COLORS[0], alpha=0.5, markersize=4)
        axes.semilogx(TARGETS, [means[target] for target in TARGETS], color=COLORS[0], label="Muon")
        axes.axhline(estimate(adamw).mean, color=COLORS[1], linestyle="--", label="AdamW")
        axes.set_xticks(TARGETS, [str(target) for target in TARGETS])
        axes.minorticks_off()
        axes.set(xlabel="RMS of the update over the learning rate", ylabel="held-out nats per byte")
        axes.legend(frameon=False)

    rows = [Row(f"Muon, RMS {target}", estimate(losses[target]), "nats/byte") for target in TARGETS]
    return Judgement(ruling, text, (*rows, Row("AdamW", estimate(adamw), "nats/byte")), draw)
