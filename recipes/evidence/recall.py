"""How the trials of block attention are made: text whose facts have to be recalled from far back, in three stages.

Up to ``top_k`` blocks block attention is full attention, so the two short stages, in which a small model finds out how
to recall, are the same for all arms and made once for each seed; the long stage is an arm's own.
"""

from __future__ import annotations

from recipes.evidence.bench.finding import Bench, Floats, Results
from recipes.evidence.bench.trial import Outcome, Trial
from rl.config import CheckpointConfig
from rl.learner.config import LearnerConfig, ModelConfig, OptimizerConfig, ScratchModel
from rl.pretraining_config import MeasureConfig, PretrainConfig, PretrainStage, StagesSchedule
from rl.text.config import FactsText
from rollout.models.attention import AttentionConfig, BlockAttentionConfig

SPAN = 192
"""Keys that a query sees at most: block size times top_k, the same in all sparse arms."""
LENGTH = 1024
STEPS = 700
"""Of the long stage."""
LAYERS = 3
MODEL = ScratchModel(
    layers=LAYERS, width=64, heads=2, kv_heads=2, head_dim=64, mlp_width=176, context=LENGTH, rope_theta=500_000.0
)
"""Heads of 64 and Llama 3's base: enough slow pairs by which a query finds a key by what it is, however far back."""
RATE = 3e-3
LEARNER = LearnerConfig(optimizer=OptimizerConfig(lr=RATE, weight_decay=0.0))
SCALE = (
    "A Llama of 3 layers, 64 wide, on procedural text whose facts are to be recalled, 1,024 tokens long, 192 of them "
    "in sight of a query, instead of 8,192 and 1,536."
)


def start(seed: int) -> Trial:
    """Return the short stages: facts alone, then texts that are no longer than the span."""
    return Trial(
        PretrainConfig(
            seed=seed,
            model=ModelConfig(base=MODEL, threads=1),
            text={
                "alone": FactsText(words=0.0, keys=8, recent=0, length=SPAN // 3 - 1),
                "short": FactsText(words=1.0, length=SPAN - 1),
            },
            schedule=StagesSchedule(
                list=(
                    PretrainStage(steps=600, batch=64, length=SPAN // 3, mixture={"alone": 1}, lr=RATE, ramp=20),
                    PretrainStage(steps=600, batch=21, length=SPAN, mixture={"short": 1}, lr=RATE),
                )
            ),
            learner=LEARNER,
            measure=MeasureConfig(every=0),
        )
    )


def long(seed: int, block: BlockAttentionConfig | None) -> Trial:
    """Return the long stage with this attention: a constant rate, then a line to 0 over its second half."""
    half = STEPS // 2
    rest = {"batch": 4, "length": LENGTH}
    config = PretrainConfig(
        seed=seed,
        model=ModelConfig(base=MODEL, threads=1, attention=AttentionConfig(moba=block)),
        text={"long": FactsText(words=3.0, length=LENGTH - 1)},
        schedule=StagesSchedule(
            list=(
                PretrainStage(steps=half, lr=RATE, ramp=20, **rest),
                PretrainStage(steps=STEPS - half, lr=RATE, end=0.0, **rest),
            )
        ),
        learner=LEARNER,
        measure=MeasureConfig(every=0, tokens=96 * LENGTH, bins=8),
        checkpoint=CheckpointConfig(every=100),
    )
    return Trial(config, start(seed))


def blocks(size: int, full_last_layers: int = 0, full_from: int | None = None) -> BlockAttentionConfig:
    """Return block attention with the span of all sparse arms."""
    return BlockAttentionConfig(
        block_size=size, top_k=SPAN // size, full_last_layers=full_last_layers, full_from=full_from
    )


def arm(bench: Bench, block: BlockAttentionConfig | None) -> list[Trial]:
    """Return a trial of the long stage for each seed."""
    return [long(seed, block) for seed in bench.seeds]


def loss(outcome: Outcome) -> float:
    """Return the held-out loss, in nats per letter."""
    return outcome.pretraining.heldout["long"].loss


def trailing(outcome: Outcome) -> float:
    """Return it over the last eighth of the positions."""
    return outcome.pretraining.heldout["long"].positions[-1]


def gap(results: Results, name: str) -> Floats:
    """Return by how much an arm's loss is above full attention's [seeds]."""
    return results.values(name, loss) - results.values("full", loss)
