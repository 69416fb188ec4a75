"""Pretraining and fine-tuning by the same optimiser, or by two."""

from __future__ import annotations

from typing import Any

from recipes.evidence.base import held_out
from recipes.evidence.bench.drawing import dots
from recipes.evidence.bench.finding import Arms, Bench, Judgement, Results, Row, above, all_of, estimate, shown
from recipes.evidence.stages import KINDS, NAMES, Tuning
from recipes.evidence.stages import SCALE as SCALE

TITLE = "Muon fine-tunes best what Muon has pretrained"
PAPER = "Moonlight §3.5, Table 6"
CLAIM = "Fine-tuned by Muon a model is better if Muon pretrained it; other pairs gain nothing from Muon."
PUBLISHED = "GSM8K 68.0 (Muon, Muon), 62.1 (AdamW, Muon), 64.9 (Muon, AdamW), 64.6 (AdamW, AdamW)"
PAIRS = tuple((before, kind) for before in KINDS for kind in KINDS)


def name(before: str, kind: str) -> str:
    """Return the name of an arm."""
    return f"{NAMES[before]}, {NAMES[kind]}"


def arms(bench: Bench) -> Arms:
    """Tune each stage, then fine-tune each pretraining by each optimiser."""
    tuning, found = Tuning(bench), {}
    for pair in PAIRS:
        trials = [tuning.start(*pair, seed) for seed in bench.seeds]
        found[name(*pair)] = [trial for trial in trials if trial is not None]
    return {"tuning": tuning.trials} | {arm: trials for arm, trials in found.items() if trials}


def judge(results: Results) -> Judgement:
    """Compare the pair of Muon with each of the other pairs."""
    values = {name(*pair): results.values(name(*pair), held_out) for pair in PAIRS}
    ours, *others = values
    gains = {other: estimate(values[ours] - values[other]) for other in others}
    text = (
        "Points of held-out accuracy of Muon after Muon above the others (pretrained by, fine-tuned by): "
        + "; ".join(f"{other}: {shown(gain, 1, 100)}" for other, gain in gains.items())
    )

    def draw(axes: Any) -> None:
        dots(axes, values, "held-out accuracy after fine-tuning")

    rows = [
        Row(f"pretrained by {pair.replace(', ', ', fine-tuned by ')}", estimate(each)) for pair, each in values.items()
    ]
    return Judgement(all_of([above(gain) for gain in gains.values()]), f"{text}.", tuple(rows), draw)
