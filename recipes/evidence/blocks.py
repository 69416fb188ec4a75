"""Finer blocks at the same sparsity."""

from __future__ import annotations

from typing import Any

from recipes.evidence.bench.drawing import dots
from recipes.evidence.bench.finding import Arms, Bench, Judgement, Results, Row, above, estimate, shown
from recipes.evidence.recall import SCALE as SCALE
from recipes.evidence.recall import SPAN, arm, blocks, gap

TITLE = "Finer blocks are better at the same sparsity"
PAPER = "MoBA §3.1"
CLAIM = "With as many keys in sight, the coarsest blocks lose about 1e-2 nats to the finer ones."
PUBLISHED = "2.258 (2 of 8 blocks) against 2.240 to 2.243 (4 of 16 to 32 of 128); full 2.242"
SIZES = (64, 32, 16, 8)


def arms(bench: Bench) -> Arms:
    """Train with blocks of four sizes."""
    return {"full": arm(bench, None)} | {f"blocks of {size}": arm(bench, blocks(size)) for size in SIZES}


def judge(results: Results) -> Judgement:
    """Compare the coarsest with the finest."""
    gaps = {f"{size} x {SPAN // size}": gap(results, f"blocks of {size}") for size in SIZES}
    first, last = gaps[f"{SIZES[0]} x {SPAN // SIZES[0]}"], gaps[f"{SIZES[-1]} x {SPAN // SIZES[-1]}"]
    difference = estimate(first - last)
    text = (
        f"Blocks of {SIZES[0]} lose {shown(difference, 4)} nats to blocks of {SIZES[-1]}, {SPAN} keys in sight of each."
    )

    def draw(axes: Any) -> None:
        dots(axes, gaps, "nats per letter above full attention")

    rows = [Row(f"{name}, above full", estimate(values), "nats/letter") for name, values in gaps.items()]
    return Judgement(above(difference), text, tuple(rows), draw)
