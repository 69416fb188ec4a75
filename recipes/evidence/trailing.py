"""Where in a sequence block attention loses."""

from __future__ import annotations

from typing import Any

import numpy as np

from recipes.evidence.bench.drawing import courses
from recipes.evidence.bench.finding import Arms, Bench, Judgement, Results, Row, above, estimate, shown
from recipes.evidence.recall import LENGTH, arm, blocks, loss, trailing
from recipes.evidence.recall import SCALE as SCALE

TITLE = "What block attention loses, it loses at the end of the context"
PAPER = "MoBA §3.1, Table 3"
CLAIM = "At 32,768 tokens most of the gap to full attention is in the last positions."
PUBLISHED = "1.546 C^-0.108 against 1.464 C^-0.097 in the last 2,048 of 32,768; 3.075 against 3.068 in the first"


def arms(bench: Bench) -> Arms:
    """Train with full attention and with blocks of 16."""
    return {"full": arm(bench, None), "blocks of 16": arm(bench, blocks(16))}


def judge(results: Results) -> Judgement:
    """Compare the gap over the last eighth with that over all positions."""
    both = [results.values("blocks of 16", score) - results.values("full", score) for score in (loss, trailing)]
    everywhere, late = (estimate(values) for values in both)
    difference = estimate(both[1] - both[0])
    text = f"The gap is {shown(late, 4)} nats over the last eighth and {shown(everywhere, 4)} over all."
    pairs = zip(results.arms["blocks of 16"], results.arms["full"], strict=True)
    known = [pair for pair in pairs if all(one.failed is None for one in pair)]

    def draw(axes: Any) -> None:
        lines = []
        for pair in known:
            sparse, full = (np.array(one.pretraining.heldout["long"].positions) for one in pair)
            lines.append(((np.arange(len(full)) + 0.5) * LENGTH / len(full), sparse - full))
        courses(axes, {"blocks of 16": lines}, "position", "nats per letter above full attention", "o")
        axes.axhline(0, color="gray", linewidth=0.8)

    rows = (
        Row("gap over the last eighth", late, "nats/letter"),
        Row("gap over all positions", everywhere, "nats/letter"),
        Row("difference", difference, "nats/letter"),
    )
    return Judgement(above(difference), text, rows, draw)
