"""How many planted mis-copies the faithful-quote verifier finds, and how often it is wrong.

    K15_DATA=data python -m benchmarks.quotes > quotes.jsonl

Rules and tables were made on GSM8K's training split (``--split train`` measures that); reported is its test split.
``recall``: one given number of a right solution is replaced at one place, and nothing else. What can be planted: an
operand of the solution, by its calculator's notes, that stands in the prompt in digits or as a word; what is planted is
another number, of five kinds. Left out, and counted, are plants that are given in the prompt as well. Found means: on
the planted line something is unsupported that was not so before; ``at_the_number`` that the number itself is.
Solutions are read without the notes, as models write (arm ``plain``), and with them, the notes too planted.
``carried`` is harder and not part of the goal: all results behind the plant are computed anew, as a model would go on.
``false_alarms``: solutions as they are. ``outputs``: responses of real models, by whether they are right.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import emit, environment, say
from benchmarks.quotes.planting import (
    KINDS,
    NOTE,
    NUMBER,
    Planted,
    carried,
    changed,
    literal,
    names_of,
    plant,
    rename,
    sites,
    stripped,
    value,
)
from rewards.quotes import QuoteReport, quote_report
from rewards.stats import mean_ci

Row = dict[str, Any]
GOAL = {"recall": 0.95, "false_alarms": 0.02}


def read(file: Path) -> list[Row]:
    """Return the rows of a file of JSON lines."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def share(hits: Sequence[bool]) -> dict[str, Any]:
    """Return a share with its 95 % interval."""
    found = mean_ci([[float(hit)] for hit in hits])
    return {"share": round(found.mean, 4), "ci95": [round(found.low, 4), round(found.high, 4)], "n": len(hits)}


def false_alarms(name: str, arm: str, pairs: Sequence[tuple[str, str]]) -> list[QuoteReport]:
    """Emit how many right solutions are flagged; return their reports."""
    began = time.process_time()
    reports = [quote_report(prompt, solution) for prompt, solution in pairs]
    seconds = time.process_time() - began
    numbers = [report.of(["number"]) for report in reports]
    kinds = Counter(kind for report in reports for kind in {quote.kind for quote in report.unsupported})
    emit({
        "row": "false_alarms", "set": name, "arm": arm,
        "numbers": share([bool(report.unsupported) for report in numbers]),
        "any_kind": share([bool(report.unsupported) for report in reports]),
        "per_number": round(sum(len(r.unsupported) for r in numbers) / max(sum(len(r.quotes) for r in numbers), 1), 5),
        "flagged_by_kind": dict(kinds),
        "equations_that_fail": share([bool(report.miscalculations) for report in reports]),
        "supported_by": dict(Counter(quote.by or "nothing" for r in numbers for quote in r.quotes).most_common()),
        "us_per_response": round(seconds / max(len(pairs), 1) * 1e6),
        "characters": round(sum(len(solution) for _, solution in pairs) / max(len(pairs), 1)),
    })  # fmt: skip
    return reports


def verdict(prompt: str, planted: Planted, before: QuoteReport) -> tuple[bool, bool]:
    """Return whether a plant is found, on its line and at its place."""
    report = quote_report(prompt, planted.text)
    line = planted.text.count("\n", 0, planted.start) + 1
    known = Counter(quote.text for quote in before.unsupported if quote.line == line)
    now = Counter(quote.text for quote in report.unsupported if quote.line == line)
    exact = any(q.start < planted.end and q.end > planted.start for q in report.unsupported)
    return bool(now - known), exact


def with_notes(rationale: str, planted: Planted, note: int, old: str) -> Planted:
    """Return a plant in the solution with its notes: in the visible text, and in its own note alike."""
    number = planted.text[planted.start : planted.end]
    text, place, removed = "", planted.start, 0
    last = 0
    for index, match in enumerate(NOTE.finditer(rationale)):
        body = match[1]
        if index == note:
            left, equals, right = body.rpartition("=")
            left = NUMBER.sub(lambda m: number if value(m[0]) == value(old) else m[0], left)
            body = left + equals + right
        if match.start() - removed <= planted.start:
            place += len(match[0])
        text += rationale[last : match.start()] + f"<<{body}>>"
        last, removed = match.end(), removed + len(match[0])
    text += rationale[last:]
    return Planted(planted.kind, text[:place] + number + text[place + len(old) :], place, place + len(number))


def recall(name: str, rows: Sequence[Row], seed: int) -> None:
    """Emit how many planted numbers are found, by kind and in all, of both arms and carried through."""
    others = [number for row in rows for number in NUMBER.findall(stripped(row["rationale"]))]
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    hits: dict[tuple[str, str], list[tuple[bool, bool]]] = {}
    for row in rows:
        prompt, rationale = row["problem"], row["rationale"]
        plain, given, places = stripped(rationale), literal(prompt), sites(prompt, rationale)
        before = {"plain": quote_report(prompt, plain), "notes": quote_report(prompt, rationale)}
        for kind in KINDS:
            rng = random.Random(f"{seed} {row['id']} {kind}")
            if not places:
                counts[kind]["solutions_without_a_place"] += 1
                continue
            site = rng.choice(places)
            old = plain[site.start : site.end]
            new = changed(kind, old, rng, others)
            if new is None or value(new) == value(old):
                counts[kind]["no_such_change"] += 1
            elif value(new) in given:
                counts[kind]["given_as_well"] += 1
            else:
                one = plant(kind, plain, site, new)
                hits.setdefault(("plain", kind), []).append(verdict(prompt, one, before["plain"]))
                noted = with_notes(rationale, one, site.note, old)
                hits.setdefault(("notes", kind), []).append(verdict(prompt, noted, before["notes"]))
                if (through := carried(rationale, site, new)) is not None:
                    hits.setdefault(("carried", kind), []).append(verdict(prompt, through, before["plain"]))
    for arm in ("plain", "notes", "carried"):
        for kind in ("all", *KINDS):
            found = [hit for one in KINDS for hit in hits.get((arm, one), []) if kind in ("all", one)]
            left = sum((counts[one] for one in KINDS if kind in ("all", one)), Counter[str]())
            emit({
                "row": "recall", "set": name, "arm": arm, "kind": kind, "found": share([on for on, _ in found]),
                "at_the_number": share([exact for _, exact in found]), "left_out": dict(left), "seed": seed,
            })  # fmt: skip


def renamed(name: str, rows: Sequence[Row], seed: int) -> None:
    """Emit how many names of other problems are found."""
    others = [one for row in rows for one in names_of(row["problem"])]
    found = []
    for row in rows:
        rng = random.Random(f"{seed} {row['id']} name")
        plain = stripped(row["rationale"])
        if (one := rename(row["problem"], plain, rng, others)) is not None:
            found.append(verdict(row["problem"], one, quote_report(row["problem"], plain))[1])
    emit({"row": "recall", "set": name, "arm": "plain", "kind": "name", "found": share(found), "seed": seed})


def outputs(name: str, rows: Iterable[Row]) -> None:
    """Emit how many responses of real models are flagged, by whether they are right."""
    groups: dict[str, list[QuoteReport]] = {"right": [], "wrong": []}
    for row in rows:
        groups["right" if row["expected"] else "wrong"].append(
            quote_report(row["problem"], stripped(row["prediction"]))
        )
    for sign in ("number", "any_kind", "equation"):
        flags = {
            group: [
                bool(
                    r.miscalculations
                    if sign == "equation"
                    else (r.of(["number"]) if sign == "number" else r).unsupported
                )
                for r in reports
            ]
            for group, reports in groups.items()
        }
        both = [(hit, group == "wrong") for group, hits in flags.items() for hit in hits]
        flagged = [wrong for hit, wrong in both if hit]
        emit({
            "row": "outputs", "set": name, "sign": sign,
            **{f"flagged_of_{group}": share(hits) for group, hits in flags.items()},
            "wrong_where_flagged": share(flagged) if flagged else None, "wrong": share([wrong for _, wrong in both]),
            "phi": round(_phi(both), 3),
        })  # fmt: skip


def _phi(pairs: Sequence[tuple[bool, bool]]) -> float:
    """Return the correlation of two yes-or-no signs; 0 where one of them never changes."""
    n = len(pairs)
    a, b = sum(x for x, _ in pairs) / n, sum(y for _, y in pairs) / n
    both = sum(x and y for x, y in pairs) / n
    spread = (a * (1 - a) * b * (1 - b)) ** 0.5
    return (both - a * b) / spread if spread else 0.0


def main() -> None:
    """Measure all, one JSON line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("K15_DATA"), help="folder of the sets (K15_DATA)")
    parser.add_argument("--split", choices=["train", "test"], default="test", help="of GSM8K")
    parser.add_argument("--rows", type=int, help="only the first ones of each set")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("--data DIR, or the environment variable K15_DATA, names the folder with gsm8k_test.jsonl")
    data = Path(arguments.data)
    emit({"row": "environment", **environment()})
    name = f"gsm8k_{arguments.split}"
    rows = read(data / f"{name}.jsonl")[: arguments.rows]
    say(f"{name}: {len(rows)} solutions")
    false_alarms(name, "plain", [(row["problem"], stripped(row["rationale"])) for row in rows])
    false_alarms(name, "notes", [(row["problem"], row["rationale"]) for row in rows])
    recall(name, rows, arguments.seed)
    renamed(name, rows, arguments.seed)
    say("responses of models, and mathematics")
    outputs("graded_gsm8k_outputs", read(data / "graded_gsm8k_outputs.jsonl")[: arguments.rows])
    outputs("graded_math_outputs", read(data / "graded_math_outputs.jsonl")[: arguments.rows])
    math = read(data / "math500.jsonl")[: arguments.rows]
    false_alarms("math500", "plain", [(row["problem"], row["solution"]) for row in math])


if __name__ == "__main__":
    main()
