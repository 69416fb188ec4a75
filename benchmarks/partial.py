"""Partial rollouts on and off, under a long-tailed distribution of response lengths.

    python -m benchmarks.partial [--smoke] [--seeds 0,1,2] [--iterations 20]

A mixture of mostly short and a few very long sums (2 to 24 steps, weights below) gives a policy whose responses differ
more than tenfold in length for a good reason: long problems need long reasoning. Without partial rollouts every
iteration waits for the longest response, which decodes almost alone at the end. With them (rollout.segment_tokens) an
iteration draws at most so many tokens per response, and what is unfinished continues next to fresh responses: the
engine's batch stays wide, and a wide batch costs little more per step than a narrow one.

Arms
  full      --groups problems x 8 responses per iteration, each response drawn to its end
  partial   at most 96 tokens per response and iteration, and --in-flight problems instead, so that about as many
            responses *finish* per iteration as in the other arm

The gain is what waiting costs: it shrinks with the number of responses per iteration (more of them decode beside the
longest one) and with the share of the learner in an iteration, which partial rollouts leave alone.

Held equal: the warmed-up model (same architecture as the quickstart's, warmed up on the mixture, kept in runs/bench),
problems, k, caps, sampling, engine, objective, optimiser steps per iteration, learner threads, cores. Loss is on all
response tokens, stale ones included [2501.12599 §2.6.2], so both arms train on whole responses.

Measured: training time per 1,000 trained tokens, evaluations left out, over all iterations (those that fill the pipe
included, and tokens still unfinished at the end not credited); the split into phases; the learning curve as held-out
accuracy against trained tokens in both arms; quantiles of the response lengths. The goal is a ratio of 1.5.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import CACHE, emit, environment, median, ratio, say
from benchmarks.curve import Curve, lengths
from benchmarks.runs import RunFailed, Trained, from_checkpoint, train, warmed_up
from recipes import quickstart
from rl.config import RunConfig, WarmupConfig
from rl.learner.config import ScratchModel
from rl.record.log import read_metrics
from rollout.config import RolloutConfig
from rollout.problems.arithmetic import Arithmetic, Split
from rollout.problems.config import JsonlSource
from rollout.types import Problem

GOAL = 1.5
STEPS = {2: 0.30, 3: 0.30, 4: 0.20, 6: 0.10, 12: 0.06, 24: 0.04}
"""Steps of a problem -> share of the problems."""
CAREFUL = 0.5
"""Share of demonstrations in columns: long enough that the model can follow them through a long problem."""
MAX_TOKENS, CONTEXT, SEGMENT = 700, 832, 96


def mixture(count: int, split: Split, seed: int) -> list[tuple[Problem, str]]:
    """``count`` different problems of the mixture, each with a demonstration."""
    rng = random.Random(f"benchmarks.partial/{split}/{seed}")
    sources = {steps: Arithmetic(steps=(steps, steps), careful=CAREFUL, seed=seed) for steps in STEPS}
    found: dict[str, tuple[Problem, str]] = {}
    index = 0
    while len(found) < count:
        (steps,) = rng.choices(list(STEPS), list(STEPS.values()))
        problem = sources[steps].problem(index, split)
        found.setdefault(problem.id, (problem, sources[steps].demonstration(problem, rng)))
        index += 1
    return list(found.values())


def write_rows(path: Path, items: Sequence[tuple[Problem, str]]) -> Path:
    """Problems in the shared JSONL schema, with their demonstrations as ``response``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ({"id": p.id, "problem": p.prompt, "answer": p.answer, "response": text} for p, text in items)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def base_config(folder: Path, smoke: bool) -> RunConfig:
    """Warm-up on the mixture; problems from files in ``folder``."""
    count, held_out = (400, 16) if smoke else (12_000, 256)
    demonstrations = write_rows(folder / "train.jsonl", mixture(count, "train", 0))
    heldout = write_rows(folder / "heldout.jsonl", mixture(held_out, "heldout", 0))
    config = quickstart.config()
    base = config.model.base
    assert isinstance(base, ScratchModel)
    return config.model_copy(
        update={
            "recipe": "custom",
            "model": config.model.model_copy(update={"base": base.model_copy(update={"context": CONTEXT})}),
            "problems": config.problems.model_copy(
                update={
                    "heldout": JsonlSource(path=str(heldout), verifier="arithmetic"),
                    "heldout_size": held_out,
                }
            ),
            "warmup": WarmupConfig(examples=count, path=str(demonstrations), batch_tokens=450, lr=5e-3),
            "engine": config.engine.model_copy(update={"max_model_len": CONTEXT, "max_concurrency": 512}),
            "rollout": RolloutConfig(
                groups=32, k=8, segment_tokens=MAX_TOKENS, max_tokens=MAX_TOKENS, max_age=12, loss_on="all"
            ),
            "reward": config.reward.model_copy(update={"length": None}),
            "eval": config.eval.model_copy(
                update={"every": 0, "samples": 1, "greedy": False, "interim_problems": held_out}
            ),
        }
    )


def arm_config(base: RunConfig, model: Path, arm: str, seed: int, iterations: int, groups: int) -> RunConfig:
    """RL from the warmed-up model, as ``arm`` runs it, with ``groups`` problems in flight."""
    config = from_checkpoint(base, model)
    file = str(base.warmup.path) if base.warmup else ""
    train_source = JsonlSource(path=file, verifier="arithmetic")
    rollout = config.rollout.model_copy(update={"groups": groups})
    if arm == "partial":
        rollout = rollout.model_copy(update={"segment_tokens": SEGMENT})
    return config.model_copy(
        update={
            "seed": seed,
            "iterations": iterations,
            "problems": config.problems.model_copy(update={"train": train_source}),
            "rollout": rollout,
            "eval": config.eval.model_copy(update={"every": max(2, iterations // 5)}),
        }
    )


def cost(curve: Curve) -> float:
    """Seconds of training time per 1,000 trained tokens."""
    last = curve.points[-1]
    return 1000 * last.seconds / last.tokens


def learning(curve: Curve) -> list[dict[str, float]]:
    """Held-out accuracy against trained tokens."""
    return [
        {
            "trained_tokens": curve.points[check.iteration - 1].tokens if check.iteration else 0,
            "accuracy": round(check.accuracy, 3),
            "low": round(check.low, 3),
            "high": round(check.high, 3),
        }
        for check in curve.checks
    ]


def row_of(done: Trained) -> dict[str, Any]:
    """The measurements of one run."""
    rows = read_metrics(done.run_dir)
    seconds = {
        phase: round(sum(row.get(f"time/{phase}", 0.0) for row in rows), 1)
        for phase in ("publish", "generate", "score", "train")
    }
    last = done.curve.points[-1]
    return {
        "seconds_per_1k_trained_tokens": round(cost(done.curve), 4),
        "seconds": round(last.seconds, 1),
        "phases": seconds,
        "iterations": len(done.curve.points),
        "samples": last.samples,
        "trained_tokens": last.tokens,
        "sampled_tokens": sum(row["tokens/sampled"] for row in rows),
        "samples_per_iteration": round(last.samples / len(done.curve.points), 1),
        "versions_max": max(row.get("rollouts/versions_max", 0) for row in rows),
        "dropped_old": sum(row["rollouts/dropped_old"] for row in rows),
        "lengths": lengths(done.run_dir),
        "learning": learning(done.curve),
        "peak_pss_mb": round(done.peak_pss / 1e6),
    }


def summarise(results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians over seeds and the ratio full / partial (above 1: partial rollouts are faster)."""
    key = "seconds_per_1k_trained_tokens"
    middle = {arm: round(median([row[key] for row in rows]), 4) for arm, rows in results.items()}
    gained = ratio(middle["full"], middle["partial"])
    per_seed = [
        ratio(full[key], partial[key]) for full, partial in zip(results["full"], results["partial"], strict=True)
    ]
    final = {arm: [row["learning"][-1] for row in rows] for arm, rows in results.items()}
    return {
        key: middle,
        "ratio": gained,
        "ratios": per_seed,
        "final": final,
        "met": gained is not None and gained >= 1.5,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both arms on every seed, side by side; returns the exit code."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.partial", description=__doc__, formatter_class=raw)
    parser.add_argument("--smoke", action="store_true", help="two small iterations per arm: does it run at all?")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated (0,1,2)")
    parser.add_argument("--iterations", type=int, default=24, help="iterations of each run (24)")
    parser.add_argument("--groups", type=int, default=16, help="problems per iteration without partial rollouts (16)")
    parser.add_argument("--in-flight", type=int, default=28, help="problems in flight with them (28)")
    chosen = parser.parse_args(arguments)
    seeds = [0] if chosen.smoke else [int(seed) for seed in chosen.seeds.split(",")]
    iterations = 2 if chosen.smoke else chosen.iterations
    groups = {"full": 4, "partial": 8} if chosen.smoke else {"full": chosen.groups, "partial": chosen.in_flight}
    facts = environment()
    name = "mixture-smoke" if chosen.smoke else "mixture"
    base = base_config(CACHE / f"{name}-data", chosen.smoke)
    model = warmed_up(name, base)
    results: dict[str, list[dict[str, Any]]] = {"full": [], "partial": []}
    for seed in seeds:
        for arm, rows in results.items():
            say(f"{arm}, seed {seed}")
            config = arm_config(base, model, arm, seed, iterations, groups[arm])
            rows.append(row_of(train(config, CACHE / "partial" / f"{arm}-{seed}")))
            emit({"benchmark": "partial", "arm": arm, "seed": seed, **rows[-1]})
    shape = {"steps": STEPS, "max_tokens": MAX_TOKENS, "segment_tokens": SEGMENT, "groups": groups}
    emit(
        {
            "benchmark": "partial",
            "measure": "summary",
            "smoke": chosen.smoke,
            **summarise(results),
            "setup": shape,
            "environment": facts,
        }
    )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RunFailed as error:
        say(str(error))
        sys.exit(1)
