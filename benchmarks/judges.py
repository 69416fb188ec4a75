"""A chain-of-thought reward model against a classic one: same base model, same labelled responses, same test.

    python -m benchmarks.judges [--seeds 0..2] [--labelled 4000] [--test 2000]

The order that the paper reports, 98.5 against 84.4 of 100 spot checks [2501.12599 §2.3.5], at the size of two CPU
cores. The responses are claims (`rollout.problems.claims`): an answer such as ``71-46`` that is right or a near miss.
For each seed:

    base      a small model from scratch, warmed up on demonstrations of a stream of claims of its own: one in three
              works the answer out, the others only say a verdict
    head      a classic reward model: base with a head, all weights trained on the labelled claims; learning rate and
              epoch are those that are right most often on a tenth of them. ``head 4x``: that rate, four times as many
    own       base, after learning those of its own verdicts on the labelled claims that are right (`warmup.sampled`)
    judge     and after RL on them: `k15 train judge` from base

Judges give one verdict at temperature 1; one that cannot be read is wrong. The test is on claims about questions that
no part of any training asks about. Its plain numbers are shown apart: comparing digits suffices there. Intervals are
95 %; the difference is paired, claim by claim. All is kept in runs/bench/judges, and the same command goes on where it
was stopped. The exit code is 1 when a judge is not at least 5 points ahead of both heads with intervals apart.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import CACHE, ROOT, emit, environment, say
from benchmarks.judge_heads import head_rights
from benchmarks.robustness import numbers
from benchmarks.runs import tail
from evals.stats import Paired, paired
from evals.store import read_rights
from recipes import judge
from recipes.reward.claims import write_claims
from recipes.run.promise import BROKEN
from rewards.stats import Estimate, mean_ci
from rl.config import ProblemsConfig, RunConfig, WarmupConfig
from rl.config_io import dump
from rl.learner.config import PretrainedModel
from rollout.problems.claims import CARD, Claims
from rollout.problems.config import ClaimsSource, VerdictsSource
from rollout.problems.verdicts import load_verdicts

FOLDER = CACHE / "judges"
AHEAD = 0.05
"""Least difference that is to be shown."""
APART = 1000
"""Added to a seed for the labelled claims, so that they are another stream than the base's demonstrations."""
HEADS = ("head", "head 4x")
MANY, EPOCHS_OF_MANY = 4, 6
"""Times the labelled claims that the second head learns from, and passes over them."""
Rights = Mapping[str, list[bool]]
"""Claim -> whether each verdict on it was right."""


@dataclass(frozen=True)
class Files:
    """The data of one seed."""

    labelled: Path
    more: Path
    """``MANY`` times as many, the labelled ones first."""
    test: Path

    @classmethod
    def write(cls, folder: Path, seed: int, labelled: int, test: int) -> Files:
        """Write them. The test is of held-out questions, which no training stream asks, whatever its seed."""
        source = Claims(seed=seed + APART)
        made = cls(folder / "labelled.jsonl", folder / "more.jsonl", folder / "test.jsonl")
        write_claims(made.labelled, source, "train", labelled)
        write_claims(made.more, source, "train", labelled * MANY)
        write_claims(made.test, source, "heldout", test)
        return made


def verdicts(path: Path) -> VerdictsSource:
    """Return all responses of a file as problems, asked as a judge of claims is."""
    return VerdictsSource(path=str(path), template=CARD.template, sees=CARD.sees, split=False)


def base_config(seed: int, files: Files, test: int) -> RunConfig:
    """The recipe's two stages on demonstrations, and its evaluation."""
    shipped = judge.config()
    assert shipped.warmup is not None
    demonstrations = tuple(stage for stage in shipped.warmup.then if stage.sampled is None)
    return shipped.model_copy(
        update={
            "recipe": "custom",
            "seed": seed,
            "iterations": 0,
            "promise": None,
            "problems": ProblemsConfig(train=ClaimsSource(seed=seed), heldout=verdicts(files.test), heldout_size=test),
            "warmup": shipped.warmup.model_copy(update={"then": demonstrations}),
            "eval": shipped.eval.model_copy(update={"samples": 1, "every": 0}),
        }
    )


def judge_config(seed: int, files: Files, test: int, base: Path) -> RunConfig:
    """The recipe's own verdicts and RL, on the labelled claims alone."""
    shipped = judge.config()
    assert shipped.warmup is not None
    (own,) = (stage for stage in shipped.warmup.then if stage.sampled is not None)
    return shipped.model_copy(
        update={
            "recipe": "custom",
            "seed": seed,
            "promise": None,
            "model": shipped.model.model_copy(update={"base": PretrainedModel(path=str(base))}),
            "problems": ProblemsConfig(train=verdicts(files.labelled), heldout=verdicts(files.test), heldout_size=test),
            "warmup": WarmupConfig(**own.model_dump()),
            "eval": shipped.eval.model_copy(update={"samples": 1, "every": 0}),
        }
    )


def train(config: RunConfig, run_dir: Path, threads: int) -> None:
    """`k15 train`, which goes on with what is there. Raises ``RuntimeError`` with the last lines it printed."""
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    file = run_dir.with_suffix(".yaml")
    file.write_text(dump(config))
    command = [str(Path(sys.executable).parent / "k15"), "train", "--config", str(file), "--run-dir", str(run_dir)]
    command += ["--model.threads", str(threads), "--engine.threads", str(threads)]
    log = run_dir.with_suffix(".log")
    with log.open("w") as output:
        done = subprocess.run(command, cwd=ROOT, stdout=output, stderr=output, check=False)
    if done.returncode not in (0, BROKEN):
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{tail(log)}")


def measured(seed: int, labelled: int, test: int, threads: int) -> dict[str, Rights]:
    """Train all arms of one seed and return what each makes of the test."""
    folder = FOLDER / f"{labelled}-{test}" / f"s{seed}"
    files = Files.write(folder, seed, labelled, test)
    train(base_config(seed, files, test), folder / "base", threads)
    base = folder / "base" / "model"
    train(judge_config(seed, files, test, base), folder / "judge", threads)
    found = {
        "base": read_rights(folder / "base" / "eval" / "after.parquet"),
        "own": read_rights(folder / "judge" / "eval" / "before.parquet"),
        "judge": read_rights(folder / "judge" / "eval" / "after.parquet"),
    }
    few, many, tests = verdicts(files.labelled), verdicts(files.more), verdicts(files.test)
    found["head"], best = head_rights(base, few, tests, folder / "head.json", seed, threads)
    kept = folder / "head4x.json"
    found["head 4x"], _ = head_rights(base, many, tests, kept, seed, threads, (best,), EPOCHS_OF_MANY)
    return found


def estimate(rights: Rights, names: Sequence[str]) -> Estimate:
    """Return the accuracy on these claims, with its interval; one that has no verdict counts as wrong."""
    return mean_ci([[float(value) for value in rights.get(name) or [False]] for name in names])


def difference(first: Rights, second: Rights, names: Sequence[str]) -> Paired:
    """Return by how much the second is ahead, claim by claim."""
    return paired(*([list(rights.get(name) or [False]) for name in names] for rights in (first, second)))


def shows(arms: Mapping[str, Estimate], ahead: Mapping[str, Paired]) -> bool:
    """Whether the judge is far enough ahead of both heads, intervals apart."""
    return all(
        ahead[name].difference >= AHEAD and arms[name].high < arms["judge"].low and ahead[name].low > 0
        for name in HEADS
    )


def report(seed: int, rights: Mapping[str, Rights], test: Path) -> tuple[dict[str, Any], str]:
    """Return one seed's row, and it as a table."""
    problems = load_verdicts(verdicts(test), "heldout")
    terms = {problem.id: str(problem.extra["row"]).rpartition(":")[2] for problem in problems}
    parts = {
        "all": [*terms],
        "plain numbers": [name for name, text in terms.items() if text.isdigit()],
        "sums": [name for name, text in terms.items() if not text.isdigit()],
    }
    row: dict[str, Any] = {"seed": seed}
    lines = []
    for part, names in parts.items():
        arms = {name: estimate(rights[name], names) for name in ("base", *HEADS, "own", "judge")}
        ahead = {name: difference(rights[name], rights["judge"], names) for name in HEADS}
        row[part] = {
            "claims": len(names),
            "accuracy": {name: [one.mean, one.low, one.high] for name, one in arms.items()},
            "ahead": {name: asdict(one) for name, one in ahead.items()},
        }
        if part == "all":
            row["shown"] = shows(arms, ahead)
        lines.append(f"seed {seed}, {part}, {len(names)} claims")
        lines += [f"    {name:<10}{_interval(one.mean, one.low, one.high, '.1f')}" for name, one in arms.items()]
        lines += [
            f"    judge against {name:<10}{_interval(one.difference, one.low, one.high, '+.1f')} points"
            for name, one in ahead.items()
        ]
    return row, "\n".join(lines)


def _interval(mean: float, low: float, high: float, form: str) -> str:
    return f"{100 * mean:{form}} [{100 * low:{form}}, {100 * high:{form}}]"


def main(arguments: Sequence[str] | None = None) -> int:
    """All seeds; 0 when each shows the order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0..2", help="0..2 or 0,3,5")
    parser.add_argument("--labelled", type=int, default=4000, help="labelled claims that heads and judges learn from")
    parser.add_argument("--test", type=int, default=2000, help="claims of the test")
    parser.add_argument("--threads", type=int, default=0, help="of learner and engine; 0: all cores")
    options = parser.parse_args(arguments)
    emit({"benchmark": "judges", "environment": environment()})
    began, shown = time.monotonic(), []
    for seed in numbers(options.seeds):
        rights = measured(seed, options.labelled, options.test, options.threads)
        row, text = report(seed, rights, FOLDER / f"{options.labelled}-{options.test}" / f"s{seed}" / "test.jsonl")
        emit({**row, "minutes": (time.monotonic() - began) / 60})
        say(text)
        shown.append(row["shown"])
    say(f"{sum(shown)} of {len(shown)} seeds show it; {(time.monotonic() - began) / 60:.0f} min")
    return 0 if all(shown) else 1


if __name__ == "__main__":
    sys.exit(main())
