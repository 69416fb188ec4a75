"""RL of SmolLM2 on a curated set against a random set of equal size, from the same warmed-up model.

    python -m benchmarks.curated_rl [--seeds 0,1] [--arms random,curated] [--size 256] [--iterations 20] [--smoke]

The pool ($K15_DATA): sums and differences in words of ASDiv (grades 1 and 2, as the recipe ``smollm2`` has them,
without the 128 that it holds out), MAWPS (addsub, singleop) and SVAMP (addition, subtraction), at most 160 characters
each. One model is warmed up as the recipe does, on the ASDiv part's own equations. ``curated``: ``k15 curate`` on the
pool, against the held-out problems, with that model's guesses and pass rates, and ``--coverage.size``. ``random``: the
same number of rows, drawn by the seed from the pool as it is, without those that are held out word for word. Each arm
trains the recipe's RL from the warmed-up model; both are judged on the same held-out problems, 4 responses each.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import CACHE, ROOT, emit, environment, say
from benchmarks.runs import from_checkpoint, train, warmed_up
from evals.compare import change
from recipes import smollm2
from rl.config import RunConfig
from rollout.problems.config import JsonlSource
from rollout.problems.jsonl import load_jsonl, read_rows
from rollout.problems.source import asked

LONGEST = 160
"""Characters of a problem."""
FOLDER = CACHE / "curated_rl"
PROMPT = "{problem}"


def written(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """The rows as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def material(config: RunConfig) -> tuple[Path, Path]:
    """Files with the pool and the held-out problems."""
    data = Path(os.environ["K15_DATA"])
    train_, heldout = config.problems.train, config.problems.heldout
    assert isinstance(train_, JsonlSource)
    assert isinstance(heldout, JsonlSource)
    held = load_jsonl(heldout)
    pool = [
        {"id": one.id, "problem": one.prompt, "answer": one.answer, "source": one.source} for one in load_jsonl(train_)
    ]
    for name, types in (("mawps", {"addsub", "singleop"}), ("svamp", {"Addition", "Subtraction"})):
        for _, row in read_rows(data / f"{name}.jsonl"):
            if row["type"] in types and len(row["problem"]) <= LONGEST and not row.get("defect"):
                pool.append({key: row[key] for key in ("id", "problem", "answer", "source")})
    kept = [{"id": one.id, "problem": one.prompt, "answer": one.answer} for one in held]
    return written(FOLDER / "pool.jsonl", pool), written(FOLDER / "heldout.jsonl", kept)


def curated(pool: Path, heldout: Path, model: Path, size: int, samples: int) -> Path:
    """The set that ``k15 curate`` makes of the pool, asked as the recipe asks."""
    out = FOLDER / f"curated-{size}-{samples}"
    command = [str(Path(sys.executable).parent / "k15"), "curate", str(pool), "--verifier", "gsm8k"]
    command += ["--against", str(heldout), "--model", str(model), "--out", str(out), "--coverage.size", str(size)]
    command += ["--difficulty.prompt", PROMPT, "--difficulty.system", "Solve.", "--difficulty.max_tokens", "96"]
    command += ["--difficulty.samples", str(samples), "--guess.prompt", PROMPT, "--guess.prefix", "#### "]
    command += ["--engine.max_model_len", "256", "--engine.max_concurrency", "128"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return out / "curated.jsonl"


def drawn(pool: Path, heldout: Path, size: int, seed: int) -> Path:
    """As many rows of the pool at random, without held-out problems word for word, which training refuses."""
    known = {asked(one) for one in load_jsonl(JsonlSource(path=str(heldout), verifier="gsm8k"))}
    rows = [row for _, row in read_rows(pool) if " ".join(row["problem"].casefold().split()) not in known]
    return written(FOLDER / f"random-{size}-{seed}.jsonl", random.Random(seed).sample(rows, size))


def on_set(config: RunConfig, path: Path, seed: int, iterations: int) -> RunConfig:
    """The recipe's RL on the problems of a file."""
    source = JsonlSource(path=str(path), verifier="gsm8k")
    problems = config.problems.model_copy(update={"train": source})
    evaluation = config.eval.model_copy(update={"every": 0})
    reward = config.reward.model_copy(update={"length": None})
    changes = {"problems": problems, "eval": evaluation, "reward": reward, "seed": seed, "iterations": iterations}
    return config.model_copy(update=changes)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--arms", default="random,curated")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--samples", type=int, default=10, help="responses behind a pass rate")
    parser.add_argument("--smoke", action="store_true", help="one iteration on 32 problems")
    arguments = parser.parse_args()
    if not os.environ.get("K15_DATA"):
        raise SystemExit("curated_rl: $K15_DATA has to name the folder of data files")
    base = smollm2.config()
    size, iterations = (32, 1) if arguments.smoke else (arguments.size, arguments.iterations)
    emit({"benchmark": "curated_rl", "size": size, "iterations": iterations, **environment()})
    pool, heldout = material(base)
    model = warmed_up("smollm2", base)
    config = from_checkpoint(base, model)
    for seed in (int(one) for one in arguments.seeds.split(",")):
        for arm in arguments.arms.split(","):
            say(f"seed {seed}: {arm}")
            made = drawn(pool, heldout, size, seed)
            path = made if arm == "random" else curated(pool, heldout, model, size, arguments.samples)
            run = FOLDER / f"{arm}-{seed}"
            done = train(on_set(config, path, seed, iterations), run)
            emit({"arm": arm, "seed": seed, "seconds": round(done.wall_seconds), **result(run)})
        if {"random", "curated"} <= set(arguments.arms.split(",")):
            emit({"seed": seed, "curated_beyond_random": compared(seed)})


def result(run: Path) -> dict[str, Any]:
    """Held-out accuracy before and after, and the paired change."""
    summary = json.loads((run / "summary.json").read_bytes())
    return {key: summary[key] for key in ("accuracy_before", "accuracy_after", "accuracy_change")}


def compared(seed: int) -> dict[str, Any]:
    """What the curated set gives beyond the random one, paired by held-out problem."""
    one, other = (FOLDER / f"{arm}-{seed}" / "eval" / "after.parquet" for arm in ("random", "curated"))
    found = change(one, other)
    assert found is not None
    return {"mean": found.difference, "ci95": [found.low, found.high], "p": found.p}


if __name__ == "__main__":
    main()
