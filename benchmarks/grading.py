r"""How right, how fast and how robust the maths grader is, beside math-verify used plainly.

    python -m benchmarks.grading [--data DIR] [--rounds 5] [--workers 2] [--part files|hostile] [--cap 3] [--every 1]
                                 [--smoke]

- `agreement`: verdicts on graded_math_outputs.jsonl and graded_gsm8k_outputs.jsonl (in --data or $K15_DATA; fields
  `prediction`, `answer`, `expected`), with the ids of all disagreements. Both graders see the same text. math-verify is
  `verify(parse(gold), parse(prediction))` with its own defaults; `boxed` is the same on `\boxed{gold}`, which spares it
  golds that stand without dollar signs.
- `speed`: the same items per second, with `workers` processes that are warm; one unmeasured pass, then rounds that
  alternate between the graders. `cold` is `k15 grade` as a command, start included.
- `hostile`: every attack of tests/hostile_math.py, one at a time in a process that is killed after `cap` seconds:
  acceptances, verdicts that would mask a wrong answer (ungradable, a hang, a crash), the slowest item. `cpu_seconds`
  are those of the calling process, without k15's grading process.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, emit, environment, median, ratio, say, spread

FILES = {"graded_math_outputs": "boxed", "graded_gsm8k_outputs": "gsm8k"}
GOAL_AGREEMENT, GOAL_ITEM_S, GOAL_PER_S = 0.99, 1.2, 800.0
CHUNK = 32


@dataclass(frozen=True)
class Item:
    """One response to grade."""

    gold: str
    prediction: str
    rule: str
    id: str = ""
    expected: bool = False


def by_k15(item: Item) -> str:
    """The verdict of this repository's grader."""
    from rewards.math.grade import grade

    return grade(item.gold, item.prediction, rule=item.rule).verdict


def by_math_verify(item: Item, boxed: bool = False) -> str:
    """math-verify as its own documentation uses it."""
    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    gold = rf"\boxed{{{item.gold}}}" if boxed else item.gold
    return "correct" if verify(parse(gold), parse(item.prediction)) else "wrong"


GRADERS: dict[str, Callable[[Item], str]] = {
    "k15": by_k15,
    "math-verify": by_math_verify,
    "math-verify boxed": partial(by_math_verify, boxed=True),
}


def grade_all(grader: str, items: Sequence[Item]) -> list[str]:
    """Verdicts of one grader on some items; an exception is one of its own."""
    found = []
    for item in items:
        try:
            found.append(GRADERS[grader](item))
        except Exception as error:  # noqa: BLE001 the boundary to a peer
            found.append(f"raised {type(error).__name__}")
    return found


def load(data: Path, name: str) -> list[Item]:
    """Items of one graded file."""
    with (data / f"{name}.jsonl").open() as file:
        rows = [json.loads(line) for line in file]
    return [Item(row["answer"], row["prediction"], FILES[name], row["id"], row["expected"]) for row in rows]


def agreement(name: str, items: Sequence[Item], grader: str, verdicts: Sequence[str]) -> dict[str, Any]:
    """How many verdicts are the file's, and which are not."""
    judged = list(zip(items, verdicts, strict=True))
    false_accepts = [item.id for item, verdict in judged if verdict == "correct" and not item.expected]
    false_rejects = [item.id for item, verdict in judged if verdict != "correct" and item.expected]
    share = 1 - (len(false_accepts) + len(false_rejects)) / len(items)
    return {
        "kind": "agreement", "file": name, "grader": grader, "items": len(items), "agree": round(share, 4),
        "accepts_more": false_accepts, "rejects_more": len(false_rejects), "rejects_first": false_rejects[:5],
        "other": dict(Counter(verdict for verdict in verdicts if verdict not in ("correct", "wrong"))),
        "goal_met": share >= GOAL_AGREEMENT,
    }  # fmt: skip


def measure_files(data: Path, rounds: int, workers: int) -> None:
    """Agreement and speed on the graded files."""
    context = multiprocessing.get_context("spawn")
    for name in FILES:
        items = load(data, name)
        chunks = [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
        rates: dict[str, list[float]] = {grader: [] for grader in GRADERS}
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for number in range(rounds + 1):
                for grader in GRADERS:
                    began = time.perf_counter()
                    verdicts = [one for part in pool.map(partial(grade_all, grader), chunks) for one in part]
                    took = time.perf_counter() - began
                    if number:
                        rates[grader].append(len(items) / took)
                    else:
                        emit(agreement(name, items, grader, verdicts))
        for grader in GRADERS:
            row = {"kind": "speed", "file": name, "grader": grader, "workers": workers, "unit": "items/s"}
            row |= spread(rates[grader], 1) | {
                "times_math_verify": ratio(median(rates[grader]), median(rates["math-verify"]))
            }
            if grader == "k15":
                row["goal_met"] = median(rates[grader]) >= GOAL_PER_S
            emit(row)
        measure_command(data / f"{name}.jsonl", FILES[name], len(items), rounds)


def measure_command(file: Path, rule: str, count: int, rounds: int) -> None:
    """``k15 grade`` from start to end."""
    seconds = []
    k15 = str(Path(sys.executable).with_name("k15"))
    with tempfile.TemporaryDirectory() as folder:
        arguments = [k15, "grade", str(file), "--gold-field", "answer", "--rule", rule, "--prefix", "k15_"]
        arguments += ["--out", f"{folder}/o.jsonl"]
        for _ in range(rounds):
            began = time.perf_counter()
            subprocess.run(arguments, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - began)
    emit({"kind": "cold", "file": file.stem, "grader": "k15", "unit": "s"} | spread(seconds, 3)
         | {"items_per_s": round(count / median(seconds), 1)})  # fmt: skip


def _serve(connection: Connection, grader: str) -> None:
    """A process that grades one item after the other."""
    grade_all(grader, [Item(r"\sqrt{8}", r"\boxed{2\sqrt{2}}", "boxed")])  # imports
    connection.send("ready")
    while True:
        item = connection.recv()
        before = time.process_time()
        verdict = grade_all(grader, [item])[0]
        connection.send((verdict, time.process_time() - before))


class Cage:
    """One grader in a process that is killed when it takes too long."""

    def __init__(self, grader: str, cap_s: float) -> None:
        self._grader, self._cap_s = grader, cap_s
        self._context = multiprocessing.get_context("spawn")
        self._start()

    def _start(self) -> None:
        self._ours, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(theirs, self._grader))
        self._process.start()
        theirs.close()
        self._ours.recv()

    def grade(self, item: Item) -> tuple[str, float, float]:
        """Verdict, wall seconds and processor seconds; ``hang`` at the cap, ``crash`` when the process ends."""
        began = time.perf_counter()
        cpu = 0.0
        try:
            self._ours.send(item)
            verdict, cpu = self._ours.recv() if self._ours.poll(self._cap_s) else ("hang", 0.0)
        except EOFError:
            verdict = "crash"
        took = time.perf_counter() - began
        if verdict in ("hang", "crash"):
            self.close()
            self._start()
        return verdict, took, cpu

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._ours.close()


def measure_hostile(cap_s: float, every: int) -> None:
    """All attacks, or every so many."""
    from tests.hostile_math import ATTACKS

    attacks = ATTACKS[::every]
    for grader in ("k15", "math-verify boxed"):
        cage = Cage(grader, cap_s)
        verdicts: Counter[str] = Counter()
        accepted: Counter[str] = Counter()
        slowest, kind = 0.0, ""
        seconds, processor = [], []
        for attack in attacks:
            verdict, took, cpu = cage.grade(Item(attack.gold, attack.response, attack.rule))
            verdicts[verdict] += 1
            accepted[attack.kind] += verdict == "correct"
            seconds.append(took)
            processor.append(cpu)
            if took > slowest:
                slowest, kind = took, f"{attack.kind}: {attack.response[:60]}"
        cage.close()
        row = {
            "kind": "hostile", "grader": grader, "items": len(attacks), "accepted": verdicts["correct"],
            "verdicts": dict(verdicts), "accepted_by_kind": {name: count for name, count in accepted.items() if count},
            "seconds": {"median": round(median(seconds), 5), "worst": round(slowest, 3)}, "slowest": kind,
            "cpu_seconds": {"median": round(median(processor), 5), "worst": round(max(processor), 3)},
            "cap_s": cap_s,
        }  # fmt: skip
        if grader == "k15":
            row["goal_met"] = verdicts["correct"] == 0 and slowest <= GOAL_ITEM_S
        emit(row)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print JSON lines."""
    parser = argparse.ArgumentParser(
        "benchmarks.grading", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("K15_DATA"), help="folder of the graded files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cap", type=float, default=3.0, help="seconds after which a grader is killed (hostile)")
    parser.add_argument("--part", choices=["files", "hostile"], help="only that (both)")
    parser.add_argument("--every", type=int, default=1, help="of the attacks, only every so manyth (1)")
    parser.add_argument("--smoke", action="store_true", help="one round and every twentieth attack")
    given = parser.parse_args(arguments)
    emit({"kind": "environment"} | environment())
    if given.data is None:
        say("no --data and no $K15_DATA: hostile cases only")
    elif given.part != "hostile":
        measure_files(Path(given.data), 1 if given.smoke else given.rounds, given.workers)
    if given.part != "files":
        measure_hostile(given.cap, 20 if given.smoke else given.every)
    return 0


if __name__ == "__main__":
    sys.exit(main())
