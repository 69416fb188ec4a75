"""Negative training against ordinary training on wrong labels: ``python -m benchmarks.negative --toy``.

``--toy``: a mixture of Gaussians, cross-entropy against negative and selective negative training
(``benchmarks.negative_toy``). One JSON line per number of classes and share of wrong labels: mean accuracy of each arm
over the seeds, and the differences, seed by seed, with 95 % intervals (Student's).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

from benchmarks.common import emit, environment, say, student


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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.negative", description=__doc__)
    parser.add_argument("--toy", action="store_true", help="the mixture of Gaussians")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    emit({"environment": environment()})
    if chosen.toy:
        toy(chosen.seeds)
    else:
        say("nothing to do: --toy")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
