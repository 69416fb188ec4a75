"""Block attention first, full attention in the end."""

from __future__ import annotations

from typing import Any

from recipes.evidence.bench.drawing import dots
from recipes.evidence.bench.finding import Arms, Bench, Judgement, Results, Row, above, estimate, shown
from recipes.evidence.recall import SCALE as SCALE
from recipes.evidence.recall import STEPS, arm, blocks, gap

TITLE = "A last tenth with full attention closes most of block attention's gap"
PAPER = "MoBA §3.2"
CLAIM = "90 % of the tokens with block attention and 10 % with full attention reach the loss of full attention."
PUBLISHED = "nearly identical to full attention, at every position (figure)"
SHARE = 0.5


def arms(bench: Bench) -> Arms:
    """Train with blocks of 64, with and without full attention in the last tenth of the steps."""
    hybrid = blocks(64, full_from=round(0.9 * STEPS))
    return {"full": arm(bench, None), "blocks": arm(bench, blocks(64)), "hybrid": arm(bench, hybrid)}


def judge(results: Results) -> Judgement:
    """See whether at least half of the gap is closed: so few steps in the tail can do no more."""
    before, after = gap(results, "blocks"), gap(results, "hybrid")
    closed = estimate((before - after) / before)
    left = estimate(after)
    text = f"The last tenth closes {shown(closed, 2)} of the gap; {shown(left, 4)} nats are left."
    gaps = {"blocks": before, "hybrid": after}

    def draw(axes: Any) -> None:
        dots(axes, gaps, "nats per letter above full attention")

    rows = (
        Row("blocks of 64, above full", estimate(before), "nats/letter"),
        Row("hybrid, above full", left, "nats/letter"),
        Row("share of the gap that is closed", closed),
    )
    return Judgement(above(closed, SHARE), text, rows, draw)
