"""k15's loop against TRL's GRPOTrainer: the same small model, problems, verifier and two cores.

    python -m benchmarks.loop [--smoke] [--seeds 0,1,2] [--arms k15,trl] [--target 0.7] [--trl-lr 1e-4] ...

Both start from the quickstart's warmed-up model (0.6 M parameters, trained once and kept in runs/bench) and learn sums
of three to five steps from the same stream of problems.

Held equal: model and float32; problems, prompt tokens, verifier, and the rule that a truncated response is wrong; 256
responses in flight (32 problems x 8); at most 300 tokens; temperature 1 without top-k or top-p; 4 optimiser steps per
iteration, all on responses of that iteration's draw; gradient clip 1; this machine's cores; 256 held-out problems, one
response each at temperature 1, after every iteration.

Not equal, because it is what the two are: k15 trains with the k1.5 objective and Muon as the quickstart does, TRL with
its own GRPO loss and AdamW at the best of the rates that --trl-lr was tried with (docs/log.md). k15 goes through
`k15 train` with Ray, vLLM, the parity probe, journal and checkpoints on.

Arms
  k15           the quickstart's settings: at most 96 tokens per response and iteration (partial rollouts)
  k15-full      the same without partial rollouts
  k15-inproc    the same as k15-full without Ray and vLLM: transformers' generation in one process
  trl           GRPOTrainer with transformers' generate on padded batches
  trl-continuous    ... with transformers' continuous batching
  trl-vllm      ... with colocated vLLM

Measured: samples/s (responses trained on) and trained tokens/s over the stretch up to the target; training time to the
first evaluation at or above the target; peak memory of the whole process tree as PSS (proportional set size: shared
pages count once). Evaluations are left out of every time, start-up too (it is in `wall_seconds`); all else counts.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import CACHE, ROOT, MemoryWatch, emit, environment, median, say
from benchmarks.curve import compare, load_curve, outcome
from benchmarks.runs import RunFailed, from_checkpoint, quickstart_model, tail, train
from benchmarks.trl_arm import Settings, save
from recipes import quickstart
from rl.config import RunConfig
from rl.config_io import dump

K15 = ("k15", "k15-full", "k15-inproc")
TRL = {"trl": "generate", "trl-continuous": "continuous", "trl-vllm": "vllm"}
EVALUATE_EVERY = 1


def config_of(arm: str, model: Path, seed: int, iterations: int, smoke: bool) -> RunConfig:
    """The quickstart's RL from the warmed-up model, as ``arm`` runs it. The length reward is off: TRL has none."""
    base = from_checkpoint(quickstart.config(), model)
    rollout, engine, problems = base.rollout, base.engine, base.problems
    evaluation = base.eval.model_copy(
        update={"every": EVALUATE_EVERY, "samples": 1, "interim_problems": 256, "greedy": False}
    )
    if smoke:
        rollout = rollout.model_copy(update={"groups": 4, "k": 4})
        problems = problems.model_copy(update={"heldout_size": 16})
    if arm != "k15":
        rollout = rollout.model_copy(update={"segment_tokens": rollout.max_tokens})
    if arm == "k15-inproc":
        engine = engine.model_copy(update={"kind": "hf"})
    return base.model_copy(
        update={
            "seed": seed,
            "iterations": iterations,
            "rollout": rollout,
            "engine": engine,
            "problems": problems,
            "eval": evaluation,
            "reward": base.reward.model_copy(update={"length": None}),
            "ray": base.ray.model_copy(update={"in_process": arm == "k15-inproc"}),
        }
    )


def run_k15(arm: str, config: RunConfig, target: float) -> dict[str, Any]:
    """One k15 run."""
    done = train(config, CACHE / "loop" / f"{arm}-{config.seed}", target)
    extra = {"wall_seconds": round(done.wall_seconds, 1), "peak_pss_mb": round(done.peak_pss / 1e6)}
    return outcome(done.curve, target) | extra


def run_trl(arm: str, config: RunConfig, model: Path, target: float, lr: float, threads: int) -> dict[str, Any]:
    """One TRL run, in a process of its own. Raises ``RunFailed``."""
    stem = CACHE / "loop" / f"{arm}-{config.seed}"
    stem.parent.mkdir(parents=True, exist_ok=True)
    file, result, log = (stem.with_suffix(suffix) for suffix in (".yaml", ".curve", ".log"))
    file.write_text(dump(config))
    settings = Settings(
        str(model), str(file), TRL[arm], lr, threads, config.iterations, EVALUATE_EVERY, target, config.seed
    )
    save(settings, stem.with_suffix(".json"))
    command = [sys.executable, "-m", "benchmarks.trl_arm", str(stem.with_suffix(".json")), str(result)]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "TRANSFORMERS_VERBOSITY": "error"}
    began = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT)
        with MemoryWatch(process.pid) as memory:
            process.wait()
    if process.returncode:
        raise RunFailed(f"{arm} ended with {process.returncode}:\n{tail(log)}")
    extra = {"wall_seconds": round(time.monotonic() - began, 1), "peak_pss_mb": round(memory.peak / 1e6)}
    return outcome(load_curve(result), target) | extra | {"lr": lr, "threads": threads}


KEYS = ("samples_per_s", "trained_tokens_per_s", "seconds_to_target", "wall_seconds", "peak_pss_mb")


def medians(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians over seeds; a target that some seed missed has none."""
    found: dict[str, Any] = {}
    for key in KEYS:
        values = [row[key] for row in rows]
        found[key] = None if None in values else round(median(values), 2)
    return found | {"runs": len(rows)}


def summarise(results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians of each arm, and how every k15 arm stands to every TRL arm."""
    middle = {arm: medians(rows) for arm, rows in results.items() if rows}
    ratios = {
        f"{ours}/{theirs}": compare(middle[ours], middle[theirs])
        for ours in middle
        for theirs in middle
        if ours in K15 and theirs in TRL
    }
    return {"medians": middle, "ratios": ratios}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every arm on every seed, side by side; returns the exit code."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.loop", description=__doc__, formatter_class=raw)
    parser.add_argument("--smoke", action="store_true", help="two small iterations of k15 and trl: does it run at all?")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated (0,1,2)")
    parser.add_argument("--arms", default="k15,trl", help="comma-separated, of those above (k15,trl)")
    parser.add_argument("--target", type=float, default=0.7, help="held-out accuracy to reach (0.7)")
    parser.add_argument("--iterations", type=int, default=30, help="most iterations of a run (30)")
    parser.add_argument("--trl-lr", type=float, default=1e-4, help="TRL's learning rate (1e-4)")
    parser.add_argument("--trl-threads", type=int, default=1, help="torch threads of the TRL arm (1)")
    parser.add_argument("--k15-threads", type=int, default=1, help="torch threads of k15's learner (1)")
    chosen = parser.parse_args(arguments)
    arms = chosen.arms.split(",")
    if unknown := set(arms) - {*K15, *TRL}:
        parser.error(f"unknown arms {', '.join(sorted(unknown))}; there are {', '.join((*K15, *TRL))}")
    seeds = [0] if chosen.smoke else [int(seed) for seed in chosen.seeds.split(",")]
    iterations = 2 if chosen.smoke else chosen.iterations
    facts = environment()
    model = quickstart_model(chosen.smoke)
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    for seed in seeds:
        for arm in arms:
            say(f"{arm}, seed {seed}")
            config = config_of(arm, model, seed, iterations, chosen.smoke)
            if arm in K15:
                policy = config.model.model_copy(update={"threads": chosen.k15_threads})
                row = run_k15(arm, config.model_copy(update={"model": policy}), chosen.target)
            else:
                row = run_trl(arm, config, model, chosen.target, chosen.trl_lr, chosen.trl_threads)
            emit({"benchmark": "loop", "arm": arm, "seed": seed, **row})
            results[arm].append(row)
    emit({"benchmark": "loop", "measure": "summary", "smoke": chosen.smoke, **summarise(results), "environment": facts})
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RunFailed as error:
        say(str(error))
        sys.exit(1)
