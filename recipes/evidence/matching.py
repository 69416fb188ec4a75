"""How Muon's update gets its RMS."""

from __future__ import annotations

from typing import Any

from recipes.evidence.bench.drawing import dots
from recipes.evidence.bench.finding import Arms, Bench, Judgement, Results, Row, above, all_of, estimate, shown, within
from recipes.evidence.muon import rates
from recipes.evidence.scale import MIDDLE, loss, pretraining
from rl.learner.config import OptimizerConfig

TITLE = "At AdamW's learning rate Muon needs its RMS matched, best for each matrix's shape"
PAPER = "Moonlight App. A, Table 1"
CLAIM = (
    "Scaled by 0.2 sqrt(max(A, B)), Muon takes AdamW's learning rate; that is as good as measuring the RMS, and better "
    "than one factor for all matrices."
)
PUBLISHED = "validation loss 2.812 (one factor), 2.789 (measured), 2.789 (by shape)"
SCALE = (
    "90 thousand parameters instead of 800 million, and matrices of [w, 3w] instead of [H, 4H], so shapes differ less. "
    "Alike means within 0.005 nats per byte."
)
ARMS = {"one factor": "width", "measured": "measured", "by shape": "shape", "plain": "none"}
MARGIN = 0.005


def arms(bench: Bench) -> Arms:
    """Train with each way, at AdamW's learning rate."""
    chosen, tuning = rates(bench, "adamw")
    found = {"adamw, tuning": tuning}
    if chosen is None:
        return found
    for name, matching in ARMS.items():
        muon = OptimizerConfig(kind="muon", lr=chosen[MIDDLE], weight_decay=0.1, matching=matching)  # type: ignore[arg-type]
        found[name] = [pretraining(MIDDLE, muon, seed) for seed in bench.seeds]
    return found


def judge(results: Results) -> Judgement:
    """Compare by shape with the others."""
    losses = {name: results.values(name, loss) for name in ARMS}
    gain = estimate(losses["one factor"] - losses["by shape"])
    gap = estimate(losses["measured"] - losses["by shape"])
    plain = estimate(losses["plain"] - losses["by shape"])
    ruling = all_of([above(plain), above(gain), within(gap, MARGIN)])
    text = (
        f"By shape is {shown(gain, 4)} nats better than one factor and {shown(plain, 3)} than plain Muon at that rate; "
        f"measuring differs by {shown(gap, 4)}."
    )

    def draw(axes: Any) -> None:
        dots(axes, losses, "held-out nats per byte")

    rows = [Row(name, estimate(values), "nats/byte") for name, values in losses.items()]
    return Judgement(ruling, text, tuple(rows), draw)
