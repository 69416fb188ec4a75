"""Weight decay and Muon in a training that is much longer than optimal."""

from __future__ import annotations

from typing import Any

import numpy as np

from recipes.evidence.bench.drawing import courses
from recipes.evidence.bench.finding import Arms, Bench, Judgement, Results, Row, above, all_of, estimate, shown
from recipes.evidence.bench.trial import Outcome
from recipes.evidence.muon import rates
from recipes.evidence.scale import LENGTH, MIXTURE, SIZES, loss, pretraining
from rl.learner.config import OptimizerConfig
from rl.pretraining_config import MeasureConfig

TITLE = "Without weight decay Muon leads early and falls behind late"
PAPER = "Moonlight §2.2"
CLAIM = "Over-trained five times, Muon without decay leads at first, and with decay it wins later and beats AdamW."
PUBLISHED = "0.023 ahead at step 24,000, 0.017 behind at 66,000"
SCALE = "27 thousand parameters and 160 tokens for each, eight times the optimum, instead of 800 million and 125."
ARMS = {"Muon": ("muon", 0.1), "Muon, no decay": ("muon", 0.0), "AdamW": ("adamw", 0.1)}
SIZE = SIZES[1]
LONGER, EARLY = 8, 2
"""Times the optimum of tokens: of the training, and when it is looked at first."""
POINTS = 16
UNIT = "held-out nats per byte"


def arms(bench: Bench) -> Arms:
    """Train each arm for eight times the optimum, at the tuned learning rates."""
    found = {}
    tokens = LONGER * SIZE.tokens
    every = MeasureConfig(every=tokens // (LENGTH * SIZE.batch) // POINTS, tokens=50_000)
    for name, (kind, decay) in ARMS.items():
        chosen, tuning = rates(bench, kind)
        if chosen is None:
            found[f"{kind}, tuning"] = tuning
            continue
        optimizer = OptimizerConfig(kind=kind, lr=chosen[SIZE], weight_decay=decay)  # type: ignore[arg-type]
        found[name] = [pretraining(SIZE, optimizer, seed, tokens, measure=every) for seed in bench.seeds]
    return found


def course(outcome: Outcome) -> tuple[list[float], list[float]]:
    """Return tokens and held-out losses, in the order of training."""
    tokens, points = 0.0, []
    for row in outcome.rows:
        if "heldout/code/loss" in row:
            points.append((tokens, sum(share * row[f"heldout/{name}/loss"] for name, share in MIXTURE.items())))
        tokens += row["tokens"]
    points.append((tokens, loss(outcome)))
    return [x for x, _ in points], [y for _, y in points]


def early_loss(outcome: Outcome) -> float:
    """Return the held-out loss after a quarter of the training."""
    return float(np.interp(EARLY * SIZE.tokens, *course(outcome)))


def judge(results: Results) -> Judgement:
    """Compare after a quarter of the training and at its end."""
    curves = {name: [course(one) for one in results.arms[name] if one.failed is None] for name in ARMS}
    end = {name: results.values(name, loss) for name in ARMS}
    soon = {name: results.values(name, early_loss) for name in ARMS}
    early = estimate(soon["Muon"] - soon["Muon, no decay"])
    late = estimate(end["Muon, no decay"] - end["Muon"])
    adamw = estimate(end["AdamW"] - end["Muon"])
    ruling = all_of([above(early), above(late), above(adamw)])
    text = (
        f"Without decay Muon is {shown(early, 4)} nats ahead after a quarter of the training and {shown(late, 4)} "
        f"behind at its end; AdamW is then {shown(adamw, 4)} behind Muon with decay."
    )

    def draw(axes: Any) -> None:
        courses(axes, {name: [(x[2:], y[2:]) for x, y in each] for name, each in curves.items()}, "tokens", UNIT)

    rows = (
        Row("lead without decay, after a quarter", early, "nats/byte"),
        Row("loss without decay less with it, at the end", late, "nats/byte"),
        Row("AdamW's loss less Muon's, at the end", adamw, "nats/byte"),
    )
    return Judgement(ruling, text, rows, draw)
