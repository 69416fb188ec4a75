"""Two cores, the quickstart's model, vLLM, partial rollouts: the loops side by side, and TRL's.

Each arm gets the threads that suit it: in turn learner and engine have both cores, overlapped one each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import median, ratio
from benchmarks.loop import config_of, run_k15, run_trl
from benchmarks.overlap.kept import kept, settings_of
from benchmarks.overlap.quality import half_width, mean_of
from benchmarks.overlap.runs import measured
from rl.config import OverlapConfig, RunConfig
from rl.objectives.config import ImportanceConfig

Row = dict[str, Any]

OVERLAPS: Mapping[str, OverlapConfig | None] = {
    "in turn": None,
    "S = 1": OverlapConfig(max_staleness=1),
    "on policy": OverlapConfig(mode="on_policy"),
}
CORES = 2
TARGET = 0.7
"""Held-out accuracy that both sides are timed to."""
K15_LR, TRL_LR = 1e-3, 1e-4
"""Each side's best of the rates tried (docs/log.md): the first at the target, without falling back later."""
CAP = 2.0
"""Of the importance weight with which k15 trains on older weights' responses."""


def config(arm: str, model: Path, seed: int, iterations: int, smoke: bool, every: int) -> RunConfig:
    """Return the configuration of an arm, evaluated every so many iterations."""
    base, overlap = config_of("k15", model, seed, iterations, smoke), OVERLAPS[arm]
    threads = CORES if overlap is None else CORES // 2
    learner = base.learner.model_copy(update={"updates": 1}) if arm == "on policy" else base.learner
    return base.model_copy(
        update={
            "overlap": overlap,
            "learner": learner,
            "model": base.model.model_copy(update={"threads": threads}),
            "engine": base.engine.model_copy(update={"threads": threads}),
            "eval": base.eval.model_copy(update={"every": every, "samples": 1 if smoke else 4}),
        }
    )


def rows(model: Path, arms: Sequence[str], seeds: Sequence[int], iterations: int, smoke: bool) -> Iterator[Row]:
    """Yield the figures of every arm, seed by seed."""
    for seed in seeds:
        for arm in arms:
            name = f"real/{'smoke-' * smoke}{arm.replace(' ', '')}-seed{seed}"
            found = measured(name, config(arm, model, seed, iterations, smoke, max(1, iterations // 4)))
            yield {"part": "real", "arm": arm, "seed": seed, **found}


def trl_rows(model: Path, seeds: Sequence[int], iterations: int, smoke: bool) -> Iterator[Row]:
    """Yield how fast the overlapped loop and TRL's reach the target, both with all cores, seed by seed."""
    for seed in seeds:
        ours = racing(config("S = 1", model, seed, iterations, smoke, every=1))
        theirs = config("in turn", model, seed, iterations, smoke, every=1)
        yield _timed("S = 1", seed, smoke, settings_of(ours), lambda run=ours: run_k15("overlapped", run, TARGET))
        yield _timed(
            "trl",
            seed,
            smoke,
            settings_of(theirs) + f" lr {TRL_LR}",
            lambda run=theirs: run_trl("trl", run, model, TARGET, TRL_LR, CORES),
        )


def racing(base: RunConfig) -> RunConfig:
    """Return the configuration with which k15 is timed to the target."""
    learner = base.learner
    optimizer = learner.optimizer.model_copy(update={"lr": K15_LR})
    objective = learner.objective.model_copy(update={"importance": ImportanceConfig(cap=CAP)})
    changed = learner.model_copy(update={"optimizer": optimizer, "objective": objective})
    return base.model_copy(update={"learner": changed})


def _timed(arm: str, seed: int, smoke: bool, settings: str, measure: Any) -> Row:
    name = f"trl/{'smoke-' * smoke}{arm.replace(' ', '')}-seed{seed}"
    found = kept(name, settings, lambda _: json.loads(json.dumps(measure())))
    return {"part": "trl", "arm": arm, "seed": seed, **found}


def summary(found: Sequence[Row]) -> dict[str, Any]:
    """Return medians of every arm, and how each stands to the one in turn, seed by seed and in the end."""
    arms = list(dict.fromkeys(row["arm"] for row in found))
    base = {row["seed"]: row for row in found if row["arm"] == "in turn"}
    told: dict[str, Any] = {}
    for arm in arms:
        mine = [row for row in found if row["arm"] == arm and row["seed"] in base]
        paired = [base[row["seed"]] for row in mine]
        difference = mean_of(mine) - mean_of(paired)
        pairs = zip(mine, paired, strict=True)
        ratios = [row["trained_tokens_per_s"] / one["trained_tokens_per_s"] for row, one in pairs]
        half = (half_width(mine) ** 2 + half_width(paired) ** 2) ** 0.5
        told[arm] = {
            "trained_tokens_per_s": round(median([row["trained_tokens_per_s"] for row in mine]), 1),
            "samples_per_s": round(median([row["samples_per_s"] for row in mine]), 2),
            "idle_engines": _middle(mine, "idle_engines"),
            "idle_learner": _middle(mine, "idle_learner"),
            "accuracy": round(mean_of(mine), 4),
            "difference": round(difference, 4),
            "difference_ci95": [round(difference - half, 4), round(difference + half, 4)],
            "ratio": median(ratios),
            "ratios": [round(one, 3) for one in ratios],
            "seeds": len(mine),
        }
    return {"part": "real", "measure": "summary", "arms": told}


def trl_summary(found: Sequence[Row]) -> dict[str, Any]:
    """Return how the overlapped loop stands to TRL's: medians of ratios, seed by seed; ``None`` where the loop missed
    the target. Where TRL did, the time of its whole run stands for the time to it, and the ratio is more than that.
    """
    ours, theirs = ({row["seed"]: row for row in found if row["arm"] == arm} for arm in ("S = 1", "trl"))
    both = sorted(ours.keys() & theirs.keys())
    speed = [ratio(ours[seed]["samples_per_s"], theirs[seed]["samples_per_s"]) for seed in both]
    missed = [seed for seed in both if theirs[seed]["seconds_to_target"] is None]
    ends = {seed: theirs[seed]["seconds" if seed in missed else "seconds_to_target"] for seed in both}
    time = [ratio(ends[seed], ours[seed]["seconds_to_target"]) for seed in both]
    return {
        "part": "trl",
        "measure": "summary",
        "samples_per_s": _median(speed),
        "time_to_target": _median(time),
        "trl_missed": missed,
    }


def _middle(found: Sequence[Row], name: str) -> float | None:
    value = _median([row[name] for row in found])
    return None if value is None else round(value, 3)


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if values and len(known) == len(values) else None
