"""Negative training against ordinary training: ``python -m benchmarks.negative --toy``, and ``--agnews``.

``--toy``: a mixture of Gaussians with wrong labels, cross-entropy against negative and selective negative training
(``benchmarks.negative_toy``). One JSON line per number of classes and share of wrong labels: mean accuracy of each arm
over the seeds, and the differences, seed by seed, with 95 % intervals (Student's).

``--agnews``: news with 30 labels a class (``benchmarks.negative_agnews``). One JSON line per seed and arm; then each
arm's accuracy over all seeds, and its differences from those before it, with intervals over the tested texts.
What is finished is kept in ``runs/bench/negative`` and not repeated.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.common import CACHE, emit, environment, say, student
from rollout.files import replace_file

if TYPE_CHECKING:
    from benchmarks.negative_agnews import Arms, News
    from rl.stop import Stopper
    from rollout.progress import Progress


def rounded(values: Sequence[float]) -> dict[str, float]:
    """Mean and 95 % interval of some shares, in points."""
    mean, low, high = student([100 * value for value in values])
    return {"mean": round(mean, 2), "low": round(low, 2), "high": round(high, 2)}


def toy(seeds: int) -> None:
    """Measure the toy, and say whether the order is the expected one."""
    from benchmarks.negative_toy import ARMS, CLASSES, NOISES, measure

    for classes in CLASSES:
        for noise in NOISES:
            if classes == 2 and noise == 0.5:
                continue  # labels that are a coin
            found = measure(classes, noise, range(seeds))
            row: dict[str, Any] = {"classes": classes, "noise": noise, "seeds": seeds}
            row |= {arm: rounded(found[arm]) for arm in ARMS}
            for first, second in pairwise(ARMS):
                steps = [after - before for before, after in zip(found[first], found[second], strict=True)]
                row[f"{second} - {first}"] = rounded(steps)
            if classes >= 5 and noise >= 0.3:
                row["ordered"] = all(row[f"{b} - {a}"]["low"] > 0 for a, b in pairwise(ARMS))
            emit(row)


def agnews(seeds: int, threads: int, changes: Sequence[str]) -> None:
    """Measure the news, seed by seed."""
    from benchmarks.negative_agnews import News, data_folder, encoder, settings_of
    from rl.stop import Stopper
    from rollout.progress import progress

    keys, model = settings_of(changes), encoder()
    news = News(data_folder(), model, keys)
    emit({"settings": asdict(keys), "texts": len(news.pool)})
    all_of: list[Arms] = []
    with Stopper() as stopper, progress() as watch:
        for seed in range(seeds):
            all_of.append(seed_of(news, model, seed, threads, watch, stopper))
            for arm, told in all_of[-1].items():
                accuracy = sum(told.right) / len(told.right)
                row = {"seed": seed, "arm": arm, "accuracy": accuracy, "taught": told.taught}
                emit(row | {"taught_right": told.taught_right, "chosen_on": told.chosen_on})
    summed_up(all_of)


def seed_of(news: News, model: str, seed: int, threads: int, watch: Progress, stopper: Stopper) -> Arms:
    """What the arms of a seed came to; those measured before with the same settings are not measured again."""
    from benchmarks.negative_agnews import ARMS, Told, run_seed

    name = hashlib.sha256(json.dumps(asdict(news.keys)).encode()).hexdigest()[:12]
    file = CACHE / "negative" / name / f"{seed}.json"
    rows = json.loads(file.read_text()) if file.exists() else {}
    found = {arm: Told(**{**row, "right": tuple(row["right"])}) for arm, row in rows.items()}
    if set(found) < set(ARMS):
        file.parent.mkdir(parents=True, exist_ok=True)
        for more in run_seed(news, model, seed, threads, watch, stopper, found):
            found = more
            replace_file(file, json.dumps({arm: asdict(told) for arm, told in found.items()}).encode())
    return found


def summed_up(all_of: Sequence[Arms]) -> None:
    """Compare the arms over all seeds: a tested text is a unit, with an answer of each seed."""
    from evals.stats import average, paired

    rows = {arm: list(zip(*(told[arm].right for told in all_of), strict=True)) for arm in all_of[0]}
    for arm, answers in rows.items():
        found = average(answers)
        row: dict[str, Any] = {
            "arm": arm,
            "seeds": len(all_of),
            "accuracy": found.mean,
            "ci95": [found.low, found.high],
        }
        for other in list(rows)[: list(rows).index(arm)]:
            gain = paired(rows[other], answers)
            row[f"- {other}"] = {"difference": gain.difference, "ci95": [gain.low, gain.high], "p": gain.p}
            each = [
                sum(told[arm].right) / len(told[arm].right) - sum(told[other].right) / len(told[other].right)
                for told in all_of
            ]
            if len(each) > 1:
                row[f"- {other}"]["over_seeds"] = rounded(each)
        emit(row)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.negative", description=__doc__)
    parser.add_argument("--toy", action="store_true", help="the mixture of Gaussians")
    parser.add_argument("--agnews", action="store_true", help="AG News; $K15_DATA names the folder with its files")
    parser.add_argument("--seeds", type=int, default=None, help="toy: 10, AG News: 3")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of AG News")
    chosen = parser.parse_args(arguments)
    if not (chosen.toy or chosen.agnews):
        parser.error("name --toy, --agnews, or both")
    torch.set_num_threads(chosen.threads)
    emit({"environment": environment()})
    if chosen.toy:
        toy(chosen.seeds or 10)
    if chosen.agnews:
        say("AG News: some 30 minutes a seed on one core")
        agnews(chosen.seeds or 3, chosen.threads, chosen.set)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
