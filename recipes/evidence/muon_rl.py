"""RL with Muon against AdamW, from models that either has pretrained. Nobody has published this."""

from __future__ import annotations

from typing import Any

from recipes.evidence.base import curve, held_out, learning
from recipes.evidence.bench.drawing import courses
from recipes.evidence.bench.finding import Arms, Bench, Judgement, Results, Row, above, all_of, estimate, shown
from recipes.evidence.bench.trial import Trial
from recipes.evidence.stages import KINDS, NAMES, Tuning, reinforced
from recipes.evidence.stages import SCALE as SCALE

TITLE = "RL by Muon learns faster than RL by AdamW, whichever has pretrained"
PAPER = "open in Moonlight"
CLAIM = (
    "Fine-tuning suggests that Muon gains where it has pretrained, and nothing where AdamW has; of RL nothing is said."
)
PUBLISHED = "none"


def name(before: str, kind: str) -> str:
    """Return the name of an arm: who pretrained and fine-tuned, who does RL."""
    return f"{NAMES[before]}, RL by {NAMES[kind]}"


def arms(bench: Bench) -> Arms:
    """Tune each stage, then RL by both on what each has pretrained and fine-tuned."""
    tuning, found = Tuning(bench), {}
    for before in KINDS:
        for kind in KINDS:
            rate = tuning.rl(before, kind)
            trials: list[Trial] = []
            for seed in bench.seeds if rate is not None else ():
                start = tuning.start(before, before, seed)
                assert start is not None
                assert rate is not None
                trials.append(reinforced(start, kind, rate, seed))
            found[name(before, kind)] = trials
    return {"tuning": tuning.trials} | {arm: trials for arm, trials in found.items() if trials}


def judge(results: Results) -> Judgement:
    """Compare the two on each pretraining, by the mean accuracy over all iterations."""
    gains = {
        before: estimate(
            results.values(name(before, "muon"), learning) - results.values(name(before, "adamw"), learning)
        )
        for before in KINDS
    }
    text = "Over all iterations RL by Muon is above RL by AdamW by " + " and ".join(
        f"{shown(gain, 1, 100)} points from {NAMES[before]}'s model" for before, gain in gains.items()
    )
    names = [name(before, kind) for before in KINDS for kind in KINDS]

    def draw(axes: Any) -> None:
        curves = {arm: [curve(one) for one in results.arms[arm] if one.failed is None] for arm in names}
        courses(axes, curves, "iteration", "accuracy of the training responses")

    rows = [Row(f"{arm}: mean over iterations", estimate(results.values(arm, learning))) for arm in names]
    rows += [Row(f"{arm}: held out in the end", estimate(results.values(arm, held_out))) for arm in names]
    return Judgement(all_of([above(gain) for gain in gains.values()]), f"{text}.", tuple(rows), draw)
