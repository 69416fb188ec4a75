"""Full attention in the last layers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from recipes.evidence.bench.drawing import dots
from recipes.evidence.bench.finding import Arms, Bench, Judgement, Results, Row, above, all_of, estimate, shown
from recipes.evidence.recall import LAYERS, arm, blocks, gap
from recipes.evidence.recall import SCALE as SCALE

TITLE = "Each last layer with full attention lowers the loss"
PAPER = "MoBA §3.2"
CLAIM = "With more of the last layers in full attention the loss of supervised fine-tuning falls."
PUBLISHED = "falls monotonically (figure)"


def arms(bench: Bench) -> Arms:
    """Train with blocks of 64 in all layers but the last 0, 1 and 2."""
    found = {"full": arm(bench, None)}
    return found | {f"last {count} full": arm(bench, blocks(64, full_last_layers=count)) for count in range(LAYERS)}


def judge(results: Results) -> Judgement:
    """Compare each with the one before."""
    gaps = {name: gap(results, name) for name in results.arms if name != "full"}
    values = list(gaps.values())
    steps = [estimate(before - after) for before, after in pairwise(values)]
    text = "The loss falls by " + " and ".join(f"{shown(step, 4)}" for step in steps) + " nats."

    def draw(axes: Any) -> None:
        dots(axes, gaps, "nats per letter above full attention")

    rows = [Row(f"{name}, above full", estimate(each), "nats/letter") for name, each in gaps.items()]
    return Judgement(all_of([above(step) for step in steps]), text, tuple(rows), draw)
