"""A context four times as long: position interpolation, a larger base, YaRN."""

from __future__ import annotations

from typing import Any

from recipes.evidence.bench.drawing import dots
from recipes.evidence.bench.finding import Arms, Bench, Judgement, Results, Row, above, all_of, estimate, shown
from recipes.evidence.bench.trial import Outcome, Trial
from recipes.evidence.muon import rates, trial
from recipes.evidence.scale import LENGTH, MIDDLE, MIXTURE, pretraining
from rl.learner.config import ModelConfig, OptimizerConfig, PretrainedModel
from rl.pretraining_config import CosineSchedule, MeasureConfig
from rollout.models.attention import AttentionConfig, RotaryStage

TITLE = "Interpolation and YaRN carry a model to four times its context"
PAPER = "RoFormer; PI; YaRN"
CLAIM = (
    "Beyond its trained length a rotary model fails; with interpolated positions, a larger base or YaRN it works on, "
    "YaRN best before any training."
)
PUBLISHED = "perplexity above 1,000 without, near that of the trained length with a short fine-tuning (PI, YaRN)"
SCALE = "90 thousand parameters, from 256 to 1,024 bytes; measured as it is, and after 100 steps of 4,096 tokens."
FACTOR = 4
HEAD = 16
STAGES = {
    "plain": (),
    "PI": (RotaryStage(scaling="linear", factor=FACTOR),),
    "NTK": (RotaryStage(base=round(10_000.0 * FACTOR ** (HEAD / (HEAD - 2)), 1)),),
    "YaRN": (RotaryStage(scaling="yarn", factor=FACTOR, trained=LENGTH),),
}
TUNING = CosineSchedule(steps=100, batch=4, length=FACTOR * LENGTH, lr=1e-3, ramp=0.1, mixture=MIXTURE)


def extended(name: str, base: Trial, seed: int) -> Trial:
    """Return a short training at four times the length."""
    attention = AttentionConfig(rotary=STAGES[name])
    model = ModelConfig(base=PretrainedModel(path="of another trial"), threads=1, attention=attention)
    measure = MeasureConfig(every=100, tokens=100_000, bins=FACTOR)
    muon = OptimizerConfig(kind="muon", lr=TUNING.lr, weight_decay=0.1)
    config = pretraining(MIDDLE, muon, seed, model=model, schedule=TUNING, measure=measure).config
    return Trial(config, base)


def arms(bench: Bench) -> Arms:
    """Extend the scaling law's models in each way."""
    chosen, tuning = rates(bench, "muon")
    if chosen is None:
        return {"muon, tuning": tuning}
    starts = {seed: trial("muon", MIDDLE, chosen[MIDDLE], seed) for seed in bench.seeds}
    return {name: [extended(name, base, seed) for seed, base in starts.items()] for name in STAGES}


def at_once(outcome: Outcome) -> float:
    """Return the loss in the last quarter of 1,024 bytes before any training there."""
    row = outcome.rows[0]
    return sum(share * row[f"heldout/{name}/trailing"] for name, share in MIXTURE.items())


def tuned(outcome: Outcome) -> float:
    """Return it after 100 steps."""
    return sum(share * outcome.pretraining.heldout[name].positions[-1] for name, share in MIXTURE.items())


def judge(results: Results) -> Judgement:
    """Compare the losses in the last quarter, where no position was trained."""
    before = {name: results.values(name, at_once) for name in STAGES}
    after = {name: results.values(name, tuned) for name in STAGES}
    gains = {name: estimate(before["plain"] - before[name]) for name in ("PI", "NTK", "YaRN")}
    yarn = estimate(before["PI"] - before["YaRN"])
    ruling = all_of([*(above(gain) for gain in gains.values()), above(yarn)])
    told = ", ".join(f"{name} {shown(gain, 2)}" for name, gain in gains.items())
    text = f"In the last quarter, nats per byte better than plain, untrained: {told}; YaRN over PI {shown(yarn, 2)}."

    def draw(axes: Any) -> None:
        shown_values = {f"{name}\nas it is": values for name, values in before.items()}
        dots(
            axes,
            shown_values | {f"{name}\ntuned": values for name, values in after.items()},
            "nats per byte, last quarter",
        )

    rows = [Row(f"{name}, as it is", estimate(values), "nats/byte") for name, values in before.items()]
    rows += [Row(f"{name}, tuned", estimate(values), "nats/byte") for name, values in after.items()]
    return Judgement(ruling, text, tuple(rows), draw)
