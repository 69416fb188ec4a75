"""RL of the quickstart policy against reward models instead of the rule, and the alarm on one that was spoiled.

    python -m benchmarks.reward_rl [--seeds 0..2] [--iterations 20] [--arms rule,head,verifier,judge,spoiled]

All start from the quickstart's warmed-up model, on the same problems; what differs is who gives the reward:

    rule      the problems' verifier
    head      `k15 train reward` on the rollouts of a run of another seed, which the rule judged
    verifier  `k15 train verifier`, 30 of these labelled for each outcome, the others without labels
    judge     `k15 train judge`, which has never seen a response of this policy
    spoiled   a head trained on labels that say of every response how short it is, not whether it is right

The models always decide (``reward.model.when always``); the rule's verdicts are on record, for the alarm. Held-out
accuracy is by the rule in all arms, one response a problem at temperature 1. ``alarm`` is the last iteration of the
window that it sounded for, 0: never. ``stopped`` is what `reward.model.alarm.then stop` makes of the spoiled arm, once.
The length reward is off. Everything is kept in runs/bench/reward_rl; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks.common import CACHE, ROOT, emit, environment, say
from benchmarks.loop import config_of
from benchmarks.outcomes import few_and_many
from benchmarks.overlap.kept import settings_of
from benchmarks.robustness import numbers
from benchmarks.runs import RunFailed, quickstart_model, tail, train
from rl.config import RunConfig
from rl.record.health import hacked
from rl.record.log import read_evaluations, read_metrics
from rollout.files import replace_file
from rollout.reward_models.config import AlarmConfig, RewardModelConfig
from rollout.reward_models.labelled import RIGHT, WRONG, read_labelled
from rollout.strict_json import dumps

FOLDER = CACHE / "reward_rl"
ARMS = ("rule", "head", "verifier", "judge", "spoiled")
DATA_SEED = 1000
"""Of the run whose rollouts are labelled data; no arm has it."""
DATA_ITERATIONS = 20
HEAD = {
    "template": "{question}\n{response}={reference}",
    "sees": "answer",
    "max_tokens": 512,
    "epochs": 8,
    "batch_tokens": 4096,
    "learner.optimizer.lr": 1e-3,
    "model.threads": 1,
}
"""How a head is trained: the scratch vocabulary has these words, and there is little but digits to compare."""
VERIFIER = {"template": "{question}\nAnswer: {reference}{response}", "max_tokens": 512, "model.threads": 1}
"""How the verifier is: it sees the steps, too."""
SPOILED = {**HEAD, "template": VERIFIER["template"], "sees": "whole"}
KEYS = {"head": HEAD, "verifier": VERIFIER, "spoiled": SPOILED}


def k15(name: str, *arguments: str | Path) -> None:
    """Run a ``k15`` command, with its log in ``FOLDER``. Raises ``RunFailed``."""
    say(f"{name}: k15 {' '.join(map(str, arguments))}")
    log = FOLDER / f"{name}.log"
    with log.open("w") as output:
        command = [str(Path(sys.executable).parent / "k15"), *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False)
    if done.returncode not in (0, 3):
        raise RunFailed(f"k15 {' '.join(map(str, arguments))} ended with {done.returncode}:\n{tail(log)}")


def lines(file: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """Write JSON lines."""
    replace_file(file, "".join(dumps(row) + "\n" for row in rows).encode())
    return file


def labelled_run(base: Path) -> Path:
    """Return a run of the quickstart by the rule, whose rollouts are the labelled data."""
    folder = FOLDER / "data"
    if not (folder / "summary.json").exists():
        say("data: a run by the rule")
        train(config_of("k15-full", base, DATA_SEED, DATA_ITERATIONS, smoke=False), folder)
    return folder


def spoiled_labels(data: Path) -> Path:
    """Return the rollouts of ``data`` with labels that say of each whether it is shorter than most."""
    rows = read_labelled(data)
    middle = median(len(row.response) for row in rows)
    return lines(
        FOLDER / "spoiled.jsonl",
        [
            {
                "question": row.question,
                "reference": row.reference,
                "response": row.response,
                "label": RIGHT if len(row.response) < middle else WRONG,
            }
            for row in rows
        ],
    )


def model_of(arm: str, base: Path) -> Path:
    """Return the reward model of an arm, trained unless it is there."""
    folder = FOLDER / arm
    if arm == "judge":
        if not (folder / "summary.json").exists():
            k15(arm, "train", "judge", "--run-dir", folder)
        return folder
    if (folder / "results.json").exists():
        return folder / "model"
    data = labelled_run(base)
    keys = [text for key, value in KEYS[arm].items() for text in (f"--{key}", str(value))]
    common = ("--model", base, "--out", folder, *keys)
    if arm == "verifier":
        few, many = few_and_many(data, FOLDER)
        k15(arm, "train", "verifier", "--labelled", few, "--unlabelled", many, *common)
    else:
        k15(arm, "train", "reward", "--labelled", data if arm == "head" else spoiled_labels(data), *common)
    return folder / "model"


def config(arm: str, base: Path, seed: int, iterations: int, then: str = "warn") -> RunConfig:
    """Return the run of an arm."""
    run = config_of("k15-full", base, seed, iterations, smoke=False)
    evaluation = run.eval.model_copy(update={"every": max(1, iterations // 2), "samples": 1})
    reward = run.reward
    if arm != "rule":
        alarm = AlarmConfig.model_validate({"then": then})
        model = RewardModelConfig(path=str(model_of(arm, base)), when="always", max_tokens=192, alarm=alarm)
        reward = reward.model_copy(update={"model": model})
    return run.model_copy(update={"eval": evaluation, "reward": reward})


def figures(config: RunConfig, folder: Path) -> dict[str, Any]:
    """Train it into ``folder``, and return its figures. Raises ``RunFailed``."""
    train(config, folder)
    rows, evaluations = read_metrics(folder), read_evaluations(folder)
    before, after = (one.accuracy for one in (evaluations[0], evaluations[-1]))
    model = config.reward.model
    alarm = hacked(rows, model.alarm if model else None)
    agreement = [row["reward/agreement"] for row in rows if "reward/agreement" in row]
    return {
        "before": round(before.mean, 4),
        "after": round(after.mean, 4),
        "ci95": [round(after.low, 4), round(after.high, 4)],
        "agreement": [round(agreement[0], 4), round(min(agreement), 4), round(agreement[-1], 4)] if agreement else None,
        "false_right": round(rows[-1].get("reward/false_right", 0.0), 4) if agreement else None,
        "no_opinion": round(sum(row.get("grader/model/no_opinion", 0.0) for row in rows)),
        "tokens": round(evaluations[-1].tokens.mean, 1),
        "alarm": alarm.message if alarm else "",
        "seconds_an_iteration": round(fmean(row["time/total"] for row in rows[2:]), 2),
    }


def measured(name: str, config: RunConfig) -> dict[str, Any]:
    """Return the figures kept under ``name``, measured unless there are some of these settings."""
    file = FOLDER / f"{name}.json"
    settings = settings_of(config)
    if file.exists() and (known := json.loads(file.read_text()))["settings"] == settings:
        return dict(known["result"])
    say(name)
    result = figures(config, FOLDER / name)
    replace_file(file, json.dumps({"settings": settings, "result": result}, indent=1).encode())
    return result


def stopped(base: Path, seed: int, iterations: int) -> dict[str, Any]:
    """Return how a run against the spoiled model ends whose alarm stops it."""
    folder = FOLDER / "stopped"
    try:
        train(config("spoiled", base, seed, iterations, then="stop"), folder)
        told = "not stopped"
    except RunFailed as error:
        told = str(error).splitlines()[-1]
    return {"arm": "stopped", "seed": seed, "iterations": len(read_metrics(folder)), "told": told}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every arm on every seed; returns the exit code: 1 when the alarm kept silent where it should sound."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.reward_rl", description=__doc__, formatter_class=raw)
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2], metavar="N..N")
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--arms", type=lambda text: text.split(","), default=list(ARMS), metavar="A,B")
    given = parser.parse_args(arguments)
    FOLDER.mkdir(parents=True, exist_ok=True)
    emit({"measure": "environment", **environment()})
    base = quickstart_model(smoke=False)
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in given.seeds:
        for arm in given.arms:
            row = measured(f"{arm}-s{seed}", config(arm, base, seed, given.iterations))
            found.setdefault(arm, []).append(row)
            emit({"arm": arm, "seed": seed, **row})
    for arm, rows in found.items():
        emit({"arm": arm, "measure": "mean", "after": round(fmean(row["after"] for row in rows), 4), "runs": len(rows)})
    if "spoiled" not in found:
        return 0
    emit(stopped(base, given.seeds[0], given.iterations))
    return int(not all(row["alarm"] for row in found["spoiled"]))


if __name__ == "__main__":
    sys.exit(main())
