"""Rotary against learned positions."""

from __future__ import annotations

from typing import Any

import numpy as np

from recipes.evidence.bench.drawing import courses
from recipes.evidence.bench.finding import Arms, Bench, Judgement, Results, Row, above, estimate, shown
from recipes.evidence.bench.trial import Trial
from recipes.evidence.decay import course
from recipes.evidence.scale import LENGTH, MIDDLE, pretraining
from rl.learner.config import ModelConfig, OptimizerConfig, ScratchModel
from rl.pretraining_config import MeasureConfig

TITLE = "Rotary positions reach a loss sooner than learned ones"
PAPER = "RoFormer §4.2"
CLAIM = "In pretraining, rotary positions converge faster than absolute ones."
PUBLISHED = "faster (figure)"
SCALE = (
    "90 thousand parameters; GPT-2 and GPT-NeoX with the same layers, causal language modelling instead of BERT's "
    "masks, and one learning rate for both."
)
ARMS = {"rotary (GPT-NeoX)": "gpt_neox", "learned (GPT-2)": "gpt2"}
RATE = 4e-3
POINTS = 16


def trial(architecture: str, seed: int) -> Trial:
    """Return a pretraining of it."""
    model = ScratchModel(
        architecture=architecture,  # type: ignore[arg-type]
        layers=MIDDLE.layers,
        width=MIDDLE.width,
        heads=3,
        kv_heads=3,
        mlp_width=4 * MIDDLE.width,
        context=LENGTH,
        tied=False,
    )
    every = MeasureConfig(every=MIDDLE.tokens // (LENGTH * MIDDLE.batch) // POINTS, tokens=50_000)
    adamw = OptimizerConfig(kind="adamw", lr=RATE, weight_decay=0.1)
    return pretraining(MIDDLE, adamw, seed, measure=every, model=ModelConfig(base=model, threads=1))


def arms(bench: Bench) -> Arms:
    """Train both."""
    return {name: [trial(architecture, seed) for seed in bench.seeds] for name, architecture in ARMS.items()}


def judge(results: Results) -> Judgement:
    """Ask after which share of the tokens rotary positions have the loss that learned ones end with."""
    curves = {name: [course(one) for one in outcomes if one.failed is None] for name, outcomes in results.arms.items()}
    pairs = [
        [course(one) for one in pair]
        for pair in zip(*(results.arms[name] for name in ARMS), strict=True)
        if all(one.failed is None for one in pair)
    ]
    shares = np.array([reached(rotary, learned[1][-1]) / learned[0][-1] for rotary, learned in pairs])
    share = estimate(shares)
    text = f"Rotary positions have the loss that learned ones end with after {shown(share, 2)} of the tokens."

    def draw(axes: Any) -> None:
        later = {name: [(x[2:], y[2:]) for x, y in each] for name, each in curves.items()}
        courses(axes, later, "tokens", "held-out nats per byte")

    ends = {name: np.array([losses[-1] for _, losses in each]) for name, each in curves.items()}
    rows = [Row(f"{name}, in the end", estimate(values), "nats/byte") for name, values in ends.items()]
    return Judgement(above(estimate(1 - shares)), text, (Row("share of the tokens", share), *rows), draw)


def reached(curve: tuple[list[float], list[float]], target: float) -> float:
    """Return the tokens after which a curve has first come down to ``target``; its last where it never does."""
    tokens, losses = (np.array(each) for each in curve)
    below = np.flatnonzero(losses <= target)
    if not len(below):
        return float(tokens[-1]) * 1.01
    at = int(below[0])
    if at == 0:
        return float(tokens[0])
    return float(np.interp(-target, -losses[at - 1 : at + 1], tokens[at - 1 : at + 1]))
