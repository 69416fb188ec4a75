"""Muon against AdamW: the scaling law, and the FLOPs for the same loss."""

from __future__ import annotations

from typing import Any

import numpy as np

from recipes.evidence.bench.drawing import COLORS
from recipes.evidence.bench.finding import Arms, Bench, Floats, Judgement, Results, Row, above, estimate, shown
from recipes.evidence.bench.trial import Trial
from recipes.evidence.scale import SIZES, Size, loss, pretraining
from rl.learner.config import OptimizerConfig

TITLE = "Muon reaches AdamW's loss with fewer FLOPs"
PAPER = "Moonlight §3.2"
CLAIM = "Compute-optimal training with Muon needs about half of AdamW's training FLOPs for the same loss."
PUBLISHED = "0.519 of the FLOPs"
SCALE = (
    "Four dense models of 15 to 213 thousand parameters over bytes, 20 tokens for each, instead of 399 million to 1.5 "
    "billion. Learning rates of both are tuned alike on the two middle sizes, on a seed of their own, and follow a "
    "power law from there."
)
KINDS = ("muon", "adamw")
RATES = (4e-3, 8e-3, 16e-3, 32e-3, 64e-3)
TUNED = SIZES[1:3]
TUNING_SEED = 100


def trial(kind: str, size: Size, rate: float, seed: int) -> Trial:
    """Return a pretraining of a size."""
    return pretraining(size, OptimizerConfig(kind=kind, lr=rate, weight_decay=0.1), seed)  # type: ignore[arg-type]


def rates(bench: Bench, kind: str) -> tuple[dict[Size, float] | None, list[Trial]]:
    """Return the learning rate of every size, or ``None`` while it is being tuned; and the trials of that."""
    grid = {size: {rate: trial(kind, size, rate, TUNING_SEED) for rate in RATES} for size in TUNED}
    every = [one for each in grid.values() for one in each.values()]
    small, large = (bench.best(choices, lambda outcome: -loss(outcome)) for choices in grid.values())
    if small is None or large is None:
        return None, every
    slope = np.log(large / small) / np.log(TUNED[1].parameters / TUNED[0].parameters)
    law = {size: large * (size.parameters / TUNED[1].parameters) ** slope for size in SIZES}
    return {size: float(f"{rate:.3g}") for size, rate in law.items()}, every


def arms(bench: Bench) -> Arms:
    """Tune, then train every size with every seed."""
    found: dict[str, list[Trial]] = {}
    for kind in KINDS:
        chosen, tuning = rates(bench, kind)
        found[f"{kind}, tuning"] = tuning
        for size, rate in (chosen or {}).items():
            found[f"{kind} {size.width}"] = [trial(kind, size, rate, seed) for seed in bench.seeds]
    return found


def judge(results: Results) -> Judgement:
    """Fit L = a C^b to each optimiser with each seed; compare the C of AdamW's loss at the largest size."""
    flops = np.array([size.flops for size in SIZES])
    losses = {kind: np.array([results.values(f"{kind} {size.width}", loss) for size in SIZES]) for kind in KINDS}
    ratios = np.array(
        [ratio(flops, *(losses[kind][:, number] for kind in KINDS)) for number in range(len(results.bench.seeds))]
    )
    share = estimate(ratios)
    ruling = above(estimate(1 - ratios))

    def draw(axes: Any) -> None:
        for kind, color in zip(KINDS, COLORS, strict=False):
            axes.loglog(flops, losses[kind], "o", color=color, alpha=0.5, markersize=4)
            mean = np.array([estimate(each).mean for each in losses[kind]])
            known = np.isfinite(mean)
            law = np.polyfit(np.log(flops[known]), np.log(mean[known]), 1) if known.sum() > 1 else (np.nan, np.nan)
            slope, start = law
            name = {"muon": "Muon", "adamw": "AdamW"}[kind]
            label = f"{name}: {np.exp(start):.3g} C^{slope:.4f}"
            axes.loglog(flops, np.exp(start) * flops**slope, color=color, label=label)
        axes.set(xlabel="training FLOPs, 6 N D", ylabel="held-out nats per byte")
        axes.legend(frameon=False)

    text = f"For the same loss Muon takes {shown(share, 2)} of AdamW's FLOPs."
    differences = [estimate(each) for each in losses["adamw"] - losses["muon"]]
    gaps = [
        Row(f"AdamW's loss less Muon's, width {size.width}", difference, "nats/byte")
        for size, difference in zip(SIZES, differences, strict=True)
    ]
    return Judgement(ruling, text, (Row("FLOPs of Muon / AdamW at equal loss", share), *gaps), draw)


def ratio(flops: Floats, muon: Floats, adamw: Floats) -> float:
    """Return the share of FLOPs that Muon's law needs for what AdamW's reaches with the most of ``flops``; NaN where a
    training has failed.
    """
    if not np.isfinite([muon, adamw]).all():  # NaNs make least squares raise on some machines
        return np.nan
    (b, a), (d, c) = (np.polyfit(np.log(flops), np.log(each), 1) for each in (muon, adamw))
    reached = c + d * np.log(flops[-1])
    return float(np.exp((reached - a) / b) / flops[-1])
