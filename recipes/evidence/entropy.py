"""The spectra of weights that Muon and AdamW have trained."""

from __future__ import annotations

from typing import Any

import numpy as np

from recipes.evidence.bench.drawing import dots
from recipes.evidence.bench.finding import Arms, Bench, Floats, Judgement, Results, Row, above, all_of, estimate, shown
from recipes.evidence.bench.trial import RUN, Outcome
from recipes.evidence.muon import KINDS, rates, trial
from recipes.evidence.scale import SIZES

TITLE = "Muon's weights have the flatter spectra"
PAPER = "Moonlight §3.4"
CLAIM = "The SVD entropy of Muon's weights is higher than AdamW's in more than 90 % of the matrices."
PUBLISHED = "more than 90 % of matrices"
SCALE = "The matrices of the largest model of the scaling law, 213 thousand parameters; the same weights."
SIZE = SIZES[-1]


def arms(bench: Bench) -> Arms:
    """Take the scaling law's trainings."""
    found = {}
    for kind in KINDS:
        chosen, tuning = rates(bench, kind)
        found[f"{kind}, tuning"] = tuning
        if chosen is not None:
            found[kind] = [trial(kind, SIZE, chosen[SIZE], seed) for seed in bench.seeds]
    return found


def entropies(outcome: Outcome) -> dict[str, float]:
    """Return H of the squared singular values of each matrix of the layers, over log n [2502.16982 §3.4]."""
    from safetensors.numpy import load_file

    found = {}
    for file in sorted((outcome.folder / RUN / "model").glob("*.safetensors")):
        for name, weight in load_file(file).items():
            if weight.ndim == 2 and ".layers." in name:
                found[name] = entropy(np.linalg.svd(weight.astype(np.float64), compute_uv=False))
    return found


def entropy(singular: Floats) -> float:
    """Return -sum p log p / log n of p = s^2 / sum s^2."""
    p = singular**2 / (singular**2).sum()
    p = p[p > 0]
    return float(-(p * np.log(p)).sum() / np.log(len(singular)))


def judge(results: Results) -> Judgement:
    """Compare matrix by matrix."""
    pairs = zip(results.arms["muon"], results.arms["adamw"], strict=True)
    found = [
        (entropies(muon), entropies(adamw)) for muon, adamw in pairs if muon.failed is None and adamw.failed is None
    ]
    share = np.array([np.mean([muon[name] > adamw[name] for name in muon]) for muon, adamw in found])
    means = {
        name: np.array([np.mean([*both[place].values()]) for both in found])
        for place, name in enumerate(("Muon", "AdamW"))
    }
    higher, difference = estimate(share), estimate(means["Muon"] - means["AdamW"])
    ruling = all_of([above(higher, 0.9), above(difference)])
    text = f"Muon's is higher in {shown(higher, 1, 100)} % of the matrices, by {shown(difference)} on average."

    def draw(axes: Any) -> None:
        dots(axes, means, "SVD entropy, mean of all matrices")

    rows = (Row("matrices where Muon's is higher", higher, "share"), Row("difference of the means", difference))
    return Judgement(ruling, text, rows, draw)
