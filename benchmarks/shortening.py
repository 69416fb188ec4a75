"""What long2short comes to on other seeds and other kinds of CPU: `k15 shorten` on the runs of the robustness grid.

    python -m benchmarks.shortening [--seeds 0..2] [--capabilities default,avx2,avx512] [--threads 1] [--jobs 1]
                                    [--KEY VALUE ...]

Takes the quickstart's runs that `python -m benchmarks.robustness` left in runs/bench/robustness, under the numerics
that each was trained with, and makes each short in every way; runs that are not there are left out, and named. Further
keys (``--method rl``) go to `k15 shorten`. Results are kept; the same command goes on where it was stopped.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import CACHE, ROOT, emit, environment, median, say
from benchmarks.robustness import FOLDER as RUNS
from benchmarks.robustness import Case, grid_of, grid_options
from benchmarks.runs import tail
from recipes.shorten.results import TITLES

FOLDER = CACHE / "shortening"


@dataclass(frozen=True)
class Point:
    """One variant of one run, held out."""

    run: str
    variant: str
    accuracy: float
    tokens: float
    """Mean response tokens."""
    points: float | None
    """Change of accuracy against the long model, as a fraction; ``None`` for the long model."""
    saved: float | None
    """Change of mean tokens as a share of the long model's."""


def points(run: str, results: Mapping[str, Any]) -> list[Point]:
    """From the ``results.json`` of `k15 shorten`."""
    return [
        Point(
            run,
            each["name"],
            each["accuracy"]["mean"],
            each["tokens"]["mean"],
            each["change"] and each["change"]["accuracy"],
            each["change"] and each["change"]["tokens"],
        )
        for each in results["variants"]
    ]


def shorten(case: Case, further: Sequence[str]) -> tuple[Case, int, Path]:
    """One run of the grid made short: case, exit code, folder."""
    folder = FOLDER / case.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    k15 = Path(sys.executable).parent / "k15"
    command = [str(k15), "shorten", str(RUNS / case.name), "--recipe", "long2short", "--method", "all"]
    with folder.with_suffix(".log").open("w") as log:
        done = subprocess.run(
            [*command, *further, "--out", str(folder)],
            cwd=ROOT,
            env=case.environment(),
            stdout=log,
            stderr=log,
            check=False,
        )
    return case, done.returncode, folder


def table(found: Sequence[Point]) -> str:
    """Least, median and most of each figure by variant, over the runs."""

    def spread(values: Sequence[float], shape: str) -> str:
        return " / ".join(format(pick(values), shape) for pick in (min, median, max)) if values else ""

    rows = [f"{'least / median / most':<22}{'accuracy':>24}{'tokens':>18}{'points against long':>26}{'tokens':>24}"]
    for name, title in TITLES.items():
        mine = [point for point in found if point.variant == name]
        if not mine:
            continue
        rows.append(
            f"{title:<22}{spread([p.accuracy for p in mine], '.3f'):>24}{spread([p.tokens for p in mine], '.0f'):>18}"
            f"{spread([100 * p.points for p in mine if p.points is not None], '+.1f'):>26}"
            f"{spread([p.saved for p in mine if p.saved is not None], '+.0%'):>24}"
        )
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """All runs; 0 when each was made short."""
    parser = grid_options(__doc__, "0..2", "1")
    options, further = parser.parse_known_args(arguments)
    try:
        cases = grid_of(options)
    except ValueError as error:
        parser.error(str(error))
    there = [case for case in cases if (RUNS / case.name / "summary.json").is_file()]
    if missing := [case.name for case in cases if case not in there]:
        say(f"not trained yet (python -m benchmarks.robustness): {', '.join(missing)}")
    emit({"benchmark": "shortening", "runs": [case.name for case in there], "environment": environment()})
    found: list[Point] = []
    failed = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for case, code, folder in pool.map(lambda case: shorten(case, further), there):
            if code:
                failed += 1
                say(f"{case.name} ended with {code}:\n{tail(folder.with_suffix('.log'))}")
                continue
            mine = points(case.name, json.loads((folder / "results.json").read_text()))
            found += mine
            for point in mine:
                emit(vars(point))
    say(table(found))
    return 1 if failed or missing or not there else 0


if __name__ == "__main__":
    sys.exit(main())
