"""Outcomes of trials that nobody has carried out, as the trials themselves would leave them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from recipes.evidence.bench.finding import Bench, Finding
from recipes.evidence.bench.trial import RUN, Outcome, Trial, write_outcome
from recipes.pretrain.results import Result, write_result
from recipes.shorten.config import ShortenConfig
from recipes.shorten.report import write_results
from recipes.shorten.results import TITLES, Variant
from rewards.stats import Estimate
from rl.config import RunConfig
from rl.pretraining import HeldOut
from rl.pretraining_config import PretrainConfig
from rl.record.log import Evaluation, MetricsLog, write_evaluation

BROKEN = "step 7: the loss is not finite"


def invent(trial: Trial, root: Path, failed: str | None = None) -> None:
    """Write what a trial leaves; one that failed has two rows, and nothing of its end."""
    folder = trial.folder(root)
    rng = np.random.default_rng(int(trial.key, 16))
    run = folder / RUN
    run.mkdir(parents=True)
    if isinstance(trial.config, PretrainConfig):
        _pretraining(trial.config, run, rng, failed is not None)
    elif isinstance(trial.config, ShortenConfig):
        _shortening(run, rng, failed is not None)
    else:
        _run(trial.config, run, rng, failed is not None)
    write_outcome(Outcome(trial, folder, 60.0, failed, "AVX2 (x86_64)"))


def _pretraining(config: PretrainConfig, run: Path, rng: np.random.Generator, failed: bool) -> None:
    end = 2.0 + 0.1 * rng.random()
    every = config.measure.every
    log = MetricsLog(run)
    for step in range(2 if failed else config.steps):
        row = {"loss": end + 3 / (1 + step), "lr": 1e-3, "tokens": 256.0}
        if every and step % every == 0:
            for name in config.text:
                row |= {f"heldout/{name}/{what}": row["loss"] for what in ("loss", "bits", "trailing")}
        if (every and step % every == 0) or step < 3:  # the other rows are not looked at
            log.write(step, row)
    log.close()
    if failed:
        return
    model = run / "model"
    model.mkdir()
    names = [f"model.layers.{layer}.{part}.weight" for layer in range(2) for part in ("q", "o")]
    weights = {name: rng.standard_normal((4, 6)).astype(np.float32) for name in names}
    save_file({**weights, "model.norm.weight": np.ones(6, np.float32)}, model / "model.safetensors")
    parts = tuple((end + 0.01 * rng.random(config.measure.bins)).tolist())
    found = {name: HeldOut(end, end / np.log(2), parts) for name in config.text}
    write_result(run, Result(found, 1000, 100, 60.0, str(model)))


def _run(config: RunConfig, run: Path, rng: np.random.Generator, failed: bool) -> None:
    level = 0.3 + 0.1 * rng.random()
    log = MetricsLog(run)
    for iteration in range(2 if failed else config.iterations):
        row = {"accuracy": level + 0.01 * iteration, "length/mean": 60 + iteration + rng.random()}
        log.write(iteration, {**row, "time/generate": 1 + rng.random()})
    log.close()
    names = {"before": 0} | {f"it{n:04d}": n for n in range(5, config.iterations, 5)} | {"after": config.iterations}
    if config.iterations == 0:
        names = {"after": 0}
    for name, iteration in names.items():
        if not failed or name == "before":
            accuracy = Estimate(level + 0.01 * iteration, level - 0.1, level + 0.1, 128)
            write_evaluation(run, Evaluation(name, iteration, accuracy, Estimate(60 + rng.random(), 50, 70, 128), 2))
    if not failed:
        (run / "summary.json").write_text(json.dumps({"tokens_generated": 100_000}))


def _shortening(run: Path, rng: np.random.Generator, failed: bool) -> None:
    if failed:
        return
    variants = []
    for name in TITLES:
        accuracy, tokens = 0.4 + 0.1 * rng.random(), 60 + 20 * rng.random()
        estimates = (Estimate(one, 0.9 * one, 1.1 * one, 128) for one in (accuracy, tokens))
        variants.append(Variant(name, "a model", *estimates, tokens, 0.0, 0.0, 2))
    write_results(run / "results.json", variants, {})


def invent_all(finding: Finding, bench: Bench, fails: Callable[[Trial], bool] = lambda _: False) -> list[Trial]:
    """Invent all trials of a finding, in the order in which they come to be known; returns them."""
    made: list[Trial] = []
    while left := unknown(finding, bench):
        for trial in left:
            invent(trial, bench.root, BROKEN if fails(trial) else None)
            made.append(trial)
    return made


def unknown(finding: Finding, bench: Bench) -> Sequence[Trial]:
    """Return the trials that are to be done, as far as they are known."""
    every = [trial for trials in finding.arms(bench).values() for trial in trials]
    parts = {part.key: part for trial in every for part in trial.chain}
    return [part for part in parts.values() if bench.outcome(part) is None]
