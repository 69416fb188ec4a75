"""The stages of a pretraining as a table."""

from __future__ import annotations

from typing import Any

from rl.pretraining import PretrainStep, plan
from rl.pretraining_config import PretrainConfig, PretrainStage


def stages(config: PretrainConfig) -> list[dict[str, Any]]:
    """Return a row for each stage, in words where one number would not do."""
    before, rows = 0.0, []
    for number, stage in enumerate(config.stages, 1):
        steps = [stage.rows(step) for step in range(stage.steps)]
        rows.append(
            {
                "name": f"stage {number}",
                "steps": stage.steps,
                "tokens": sum(steps) * config.length(stage),
                "batch": _batch(stage),
                "length": config.length(stage),
                "rate": _rate(stage, before),
                "mixture": _mixture(config.mixture(stage)),
                "balance": stage.balance,
            }
        )
        before = stage.last_lr
    return rows


def _batch(stage: PretrainStage) -> str:
    return str(stage.batch) if stage.grows is None else f"{stage.batch}, then {stage.grows[1]}"


def _rate(stage: PretrainStage, before: float) -> str:
    ramp = f"{before:.3g} to {stage.lr:.3g} in {stage.ramp} steps" if stage.ramp else f"{stage.lr:.3g}"
    if stage.end is None:
        return ramp
    return f"{ramp}, {'a cosine' if stage.shape == 'cosine' else 'a line'} to {stage.end:.3g}"


def _mixture(weights: dict[str, float]) -> str:
    total = sum(weights.values())
    return ", ".join(f"{name} {100 * weight / total:.3g} %" for name, weight in weights.items() if weight)


def read_of(config: PretrainConfig, steps: int) -> dict[str, int]:
    """Return the tokens that the first steps have read of each text."""
    done: list[PretrainStep] = plan(config)[:steps]
    return {name: sum(step.length * step.counts[number] for step in done) for number, name in enumerate(config.text)}
