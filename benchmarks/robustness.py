"""Does the quickstart keep its promise everywhere: many seeds, on the arithmetic of several kinds of CPU.

    python -m benchmarks.robustness [--seeds 0..9] [--capabilities default,avx2,avx512] [--threads 1,2] [--jobs 1]
                                    [--KEY VALUE ...]

Kinds of CPU differ in how they round: another order of sums is another run. torch and oneDNN can be told to compute as
an older CPU does ($ATEN_CPU_CAPABILITY, $ONEDNN_MAX_CPU_ISA), and with more threads sums are cut in another way. Every
seed is run under every capability that this CPU has, the thread counts taking turns along the seeds; with ``--jobs 2``
two runs at a time. Further keys (``--iterations 30``) go to `k15 train`.

The bar, for *every* run: held-out accuracy between 0.15 and 0.50 before RL, at least 25 points more after it with 95 %
intervals that do not touch, and at least 0.60 in the end. Runs are kept in runs/bench/robustness; the same command
goes on where it was stopped. The exit code is 1 when a run misses the bar or fails.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import CACHE, ROOT, emit, environment, median, say
from benchmarks.runs import tail
from recipes.run.promise import BROKEN

FOLDER = CACHE / "robustness"
BEFORE, GAIN, FINAL = (0.15, 0.50), 0.25, 0.60
"""The bar: accuracy before RL, points gained, accuracy after it."""
ISA = {"default": "AVX2", "avx2": "AVX2", "avx512": ""}
"""torch's names of what a CPU can -> oneDNN's; empty: whatever it finds. vLLM runs on no CPU below AVX2."""
FLAGS = {"default": "", "avx2": "avx2", "avx512": "avx512f"}
"""The CPU flag that each asks for."""


@dataclass(frozen=True)
class Case:
    """One run of the grid."""

    seed: int
    capability: str
    threads: int

    @property
    def name(self) -> str:
        """Folder of the run."""
        return f"{self.capability}-t{self.threads}-s{self.seed}"

    def environment(self) -> dict[str, str]:
        """Environment in which torch computes as this kind of CPU would."""
        chosen = {"ATEN_CPU_CAPABILITY": self.capability}
        if ISA[self.capability]:
            chosen |= {"ONEDNN_MAX_CPU_ISA": ISA[self.capability]}
        return {**os.environ, **chosen}


@dataclass(frozen=True)
class Outcome:
    """What came of a run. Accuracies are held out, at temperature 1, with their 95 % intervals."""

    name: str
    before: float
    before_ci95: tuple[float, float]
    after: float
    after_ci95: tuple[float, float]
    greedy: float | None
    """Accuracy of greedy decoding after RL."""
    tokens: tuple[float, float]
    """Mean response tokens before and after."""
    seconds: float
    """Wall time of the run's own phases; other jobs beside it included."""

    @property
    def gain(self) -> float:
        """Points gained, as a fraction."""
        return self.after - self.before

    def missed(self) -> list[str]:
        """What of the bar this run misses; empty when it keeps it."""
        found = []
        if not BEFORE[0] <= self.before <= BEFORE[1]:
            found.append(f"before {self.before:.3f} outside {BEFORE[0]}..{BEFORE[1]}")
        if self.gain < GAIN:
            found.append(f"gain {self.gain:+.3f} under {GAIN}")
        if self.after_ci95[0] <= self.before_ci95[1]:
            found.append("intervals touch")
        if self.after < FINAL:
            found.append(f"final {self.after:.3f} under {FINAL}")
        return found


def outcome(name: str, summary: Mapping[str, Any]) -> Outcome:
    """From a run's ``summary.json``."""
    before, after = summary["accuracy_before"], summary["accuracy_after"]
    return Outcome(
        name=name,
        before=before["mean"],
        before_ci95=tuple(before["ci95"]),
        after=after["mean"],
        after_ci95=tuple(after["ci95"]),
        greedy=after["greedy"] and after["greedy"]["mean"],
        tokens=(summary["mean_tokens_before"], summary["mean_tokens_after"]),
        seconds=sum(summary["wall_seconds"].values()),
    )


def numbers(text: str) -> list[int]:
    """``0..9`` or ``0,3,5`` as a list. Raises ``ValueError``."""
    if ".." in text:
        first, last = text.split("..")
        return list(range(int(first), int(last) + 1))
    return [int(part) for part in text.split(",")]


def capabilities(wanted: Sequence[str], flags: str) -> list[str]:
    """Those of ``wanted`` that a CPU with these flags has. Raises ``ValueError`` for a name that torch has not."""
    if unknown := [name for name in wanted if name not in FLAGS]:
        raise ValueError(f"no capability {', '.join(unknown)}; there are {', '.join(FLAGS)}")
    return [name for name in wanted if not FLAGS[name] or FLAGS[name] in flags.split()]


def grid(seeds: Sequence[int], names: Sequence[str], threads: Sequence[int]) -> list[Case]:
    """Every seed under every capability; thread counts take turns, so that each meets each capability."""
    return [
        Case(seed, name, threads[(index + number) % len(threads)])
        for index, seed in enumerate(seeds)
        for number, name in enumerate(names)
    ]


def grid_options(about: str | None, seeds: str, threads: str) -> argparse.ArgumentParser:
    """The options that say which runs there are, with these defaults."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default=seeds, help="0..9 or 0,3,5")
    parser.add_argument("--capabilities", default="default,avx2,avx512", help="those that this CPU lacks are left out")
    parser.add_argument("--threads", default=threads, help="of learner and engine, taking turns along the seeds")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    return parser


def grid_of(options: argparse.Namespace) -> list[Case]:
    """The grid that the command line asks for, on this CPU. Raises ``ValueError``."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = capabilities(options.capabilities.split(","), flags)
    return grid(numbers(options.seeds), names, numbers(options.threads))


def run(case: Case, further: Sequence[str]) -> tuple[Case, int, Path]:
    """One run through the command that a user types: case, exit code, folder.

    The command itself knows a finished run, goes on with one that was cut short, and refuses one of another recipe.
    """
    folder = FOLDER / case.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    k15 = Path(sys.executable).parent / "k15"
    keys = ["--seed", str(case.seed), "--model.threads", str(case.threads), "--engine.threads", str(case.threads)]
    command = [str(k15), "train", "quickstart", *keys, *further, "--run-dir", str(folder)]
    with folder.with_suffix(".log").open("w") as log:
        done = subprocess.run(command, cwd=ROOT, env=case.environment(), stdout=log, stderr=log, check=False)
    return case, done.returncode, folder


def results(cases: Sequence[Case], jobs: int, further: Sequence[str]) -> Iterator[tuple[Case, Outcome | None]]:
    """Outcomes in the order of ``cases``; ``None`` for a run that failed."""
    with ThreadPoolExecutor(jobs) as pool:
        for case, code, folder in pool.map(lambda case: run(case, further), cases):
            if code not in (0, BROKEN):
                say(f"{case.name} ended with {code}:\n{tail(folder.with_suffix('.log'))}")
                yield case, None
                continue
            yield case, outcome(case.name, json.loads((folder / "summary.json").read_text()))


def table(found: Sequence[Outcome]) -> str:
    """All runs, then the least and the median of each figure."""

    def line(name: str, before: str, after: str, gain: float, greedy: float | None, tokens: str, note: str) -> str:
        shown = "-" if greedy is None else f"{greedy:.3f}"
        return f"{name:<18} {before:>22} {after:>22} {gain:>+7.3f} {shown:>7} {tokens:>11}  {note}"

    def interval(mean: float, bounds: tuple[float, float]) -> str:
        return f"{mean:.3f} [{bounds[0]:.3f}, {bounds[1]:.3f}]"

    rows = [f"{'run':<18} {'before [95 %]':>22} {'after [95 %]':>22} {'gain':>7} {'greedy':>7} {'tokens':>11}"]
    for each in found:
        tokens = f"{each.tokens[0]:.0f} -> {each.tokens[1]:.0f}"
        before, after = interval(each.before, each.before_ci95), interval(each.after, each.after_ci95)
        rows.append(line(each.name, before, after, each.gain, each.greedy, tokens, "; ".join(each.missed())))
    for name, pick in (("least", min), ("median", median), ("most", max)):
        before, after = (f"{pick([getattr(each, key) for each in found]):.3f}" for key in ("before", "after"))
        greedy = [each.greedy for each in found if each.greedy is not None]
        rows.append(line(name, before, after, pick([e.gain for e in found]), pick(greedy) if greedy else None, "", ""))
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """The grid; 0 when every run keeps the bar."""
    parser = grid_options(__doc__, "0..9", "1,2")
    options, further = parser.parse_known_args(arguments)
    try:
        cases = grid_of(options)
    except ValueError as error:
        parser.error(str(error))
    emit({"benchmark": "robustness", "runs": len(cases), "environment": environment()})
    found: list[Outcome] = []
    failed = 0
    began = time.monotonic()
    for case, result in results(cases, options.jobs, further):
        if result is None:
            failed += 1
            emit({"run": case.name, "failed": True})
            continue
        found.append(result)
        emit({"run": case.name, **asdict(result), "gain": result.gain, "missed": result.missed()})
        say(f"{len(found) + failed} of {len(cases)} runs, {(time.monotonic() - began) / 60:.0f} min so far")
    if found:
        say(table(found))
    missed = sum(bool(each.missed()) for each in found)
    emit(
        {
            "runs": len(cases),
            "failed": failed,
            "missed": missed,
            "before": _spread([each.before for each in found]),
            "after": _spread([each.after for each in found]),
            "gain": _spread([each.gain for each in found]),
        }
    )
    return 1 if failed or missed else 0


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "min": min(values, default=float("nan")),
        "median": median(values),
        "max": max(values, default=float("nan")),
    }


if __name__ == "__main__":
    sys.exit(main())
