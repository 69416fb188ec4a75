"""What overlap gains, and what staleness costs: ``python -m benchmarks.overlap [--only simulated,real,trl,quality]``.

JSON lines; the last one has every goal with its figure and whether it is met, and so has the exit code (0: all are).

simulated   The real loops, pool, journal and grader; engine and learner take time on a simulated clock, so the figures
            are the same on any machine (2 min). Log-normal lengths, partial rollouts in every arm. ``bound_learner``:
            what the learner alone allows, were it never idle; ``bound_engine``, with all slots taken at all times;
            ``bound_engine_here``, with as many as were.
real        The quickstart's model on two cores, vLLM: in turn and overlapped, arms alternating, trained tokens/s and
            final accuracy, with the idle shares of engines and learner from the timeline.
trl         The overlapped loop and TRL's GRPOTrainer, all cores each, at the best rate of each: samples/s and time to
            the target. One seed's time is luck by a factor of four; ``--seeds 0,1,2,3,4`` takes 15 min.
quality     S = 0, 1, 2, 4, with and without the truncated importance weight; ``--plot FILE.png`` draws it. Measures
            learning, so it may run beside other work.

Held equal in whole runs: the warmed-up model, problems, verifier, k, caps, optimiser steps per iteration, cores.
Results of whole runs are kept in runs/bench/overlap: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.common import emit, environment, say
from benchmarks.overlap import quality, real, simulated
from benchmarks.overlap.goals import Row, judged
from benchmarks.overlap.machine import Lengths, cpu, gpu
from benchmarks.runs import RunFailed, quickstart_model

MEAN = 256
"""Tokens of a simulated response."""
ITERATIONS = {"real": 16, "trl": 30, "quality": 12}
"""Of each run; with TRL at most, as a run ends at the target."""
SMALL = 3


def iterations(part: str, options: argparse.Namespace) -> int:
    """Return how many iterations the runs of a part have."""
    return SMALL if options.smoke else options.iterations or ITERATIONS[part]


def simulate(options: argparse.Namespace) -> Iterator[Row]:
    """Yield the simulated rows."""
    engines = [gpu()] if options.smoke else [gpu(), cpu()]
    for engine in engines:
        for sigma in (0.6, 1.2):
            case = simulated.Case(engine, Lengths(MEAN, sigma))
            yield from simulated.measured(simulated.small(case) if options.smoke else case)


def train(options: argparse.Namespace) -> Iterator[Row]:
    """Yield the rows of whole runs, then their summary."""
    model = quickstart_model(options.smoke)
    arms = options.arms.split(",")
    found = []
    for row in real.rows(model, arms, options.seeds, iterations("real", options), options.smoke):
        found.append(row)
        yield row
    yield real.summary(found)


def race(options: argparse.Namespace) -> Iterator[Row]:
    """Yield the rows of the two libraries, then their summary."""
    model = quickstart_model(options.smoke)
    found = []
    for row in real.trl_rows(model, options.seeds, iterations("trl", options), options.smoke):
        found.append(row)
        yield row
    yield real.trl_summary(found)


def learn(options: argparse.Namespace) -> Iterator[Row]:
    """Yield the rows by staleness, then their summary."""
    model = quickstart_model(options.smoke)
    found = []
    for row in quality.rows(model, options.seeds, iterations("quality", options), options.smoke):
        found.append(row)
        yield row
        if options.plot:
            quality.plot(found, options.plot)
    yield quality.summary(found)


PARTS = {"simulated": simulate, "real": train, "trl": race, "quality": learn}


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.overlap", description=__doc__, formatter_class=raw)
    parser.add_argument("--smoke", action="store_true", help="everything small: does it run at all?")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated (0,1,2)")
    parser.add_argument("--iterations", type=int, help=", ".join(f"{name} {most}" for name, most in ITERATIONS.items()))
    parser.add_argument("--arms", default="in turn,S = 1", help=f"of real: {', '.join(real.OVERLAPS)}")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="where to draw the cost of staleness")
    options = parser.parse_args(arguments)
    if unknown := set(options.only.split(",")) - {*PARTS}:
        parser.error(f"no part called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if unknown := set(options.arms.split(",")) - {*real.OVERLAPS}:
        parser.error(f"no arm called {', '.join(sorted(unknown))}; there are {', '.join(real.OVERLAPS)}")
    options.seeds = [0] if options.smoke else [int(seed) for seed in options.seeds.split(",")]
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; see the module."""
    options = options_of(arguments)
    emit({"part": "environment", "smoke": options.smoke, **environment()})
    rows = []
    for part in options.only.split(","):
        for row in PARTS[part](options):
            emit(row)
            rows.append(row)
    verdict = judged(rows)
    emit(verdict)
    return 0 if verdict["met"] else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RunFailed as error:
        say(str(error))
        sys.exit(2)
