"""Block attention against full attention."""

from __future__ import annotations

from typing import Any

from recipes.evidence.bench.drawing import dots
from recipes.evidence.bench.finding import Arms, Bench, Judgement, Results, Row, estimate, shown, within
from recipes.evidence.recall import SCALE as SCALE
from recipes.evidence.recall import arm, blocks, gap, loss

TITLE = "Block attention learns as well as full attention"
PAPER = "MoBA §3.1"
CLAIM = "Trained with block attention, the language model's loss is that of full attention."
PUBLISHED = "within 1e-3 nats at 8,192 tokens"
MARGIN = 0.01


def arms(bench: Bench) -> Arms:
    """Train with full attention and with blocks of 8."""
    return {"full": arm(bench, None), "blocks of 8": arm(bench, blocks(8))}


def judge(results: Results) -> Judgement:
    """Compare the losses: alike means within 0.01 nats, since one per cent is what so small a model can show."""
    difference = estimate(gap(results, "blocks of 8"))
    text = f"With blocks of 8 the loss is {shown(difference, 4)} nats above full attention's; alike is within {MARGIN}."
    losses = {name: results.values(name, loss) for name in results.arms}

    def draw(axes: Any) -> None:
        dots(axes, losses, "held-out nats per letter")

    rows = [Row(name, estimate(values), "nats/letter") for name, values in losses.items()]
    return Judgement(within(difference, MARGIN), text, (*rows, Row("difference", difference, "nats/letter")), draw)
