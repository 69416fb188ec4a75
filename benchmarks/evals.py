"""Agreement of ``k15 eval`` with verdicts that others gave on real model outputs; disagreements are listed.

    python -m benchmarks.evals --data DIR

DIR holds ``graded_math_outputs.jsonl`` and ``graded_gsm8k_outputs.jsonl``: id, problem, answer, prediction, expected.
Everything goes through the command line, as a user would do it: ``k15 eval --predictions``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import emit, environment
from evals.benchmarks import get
from evals.results import read_results
from recipes.commands.cli import main as k15

SETS = {"graded_math_outputs.jsonl": "math500", "graded_gsm8k_outputs.jsonl": "gsm8k"}
"""File -> benchmark whose rules apply."""


def agreement(file: Path, benchmark: str, folder: Path) -> dict[str, Any]:
    """Verdicts of k15 beside those of the file."""
    rows = {row["id"]: row for row in map(json.loads, file.read_text().splitlines())}
    problems = [{key: row[key] for key in ("id", "problem", "answer")} for row in rows.values()]
    answers = [{"id": row["id"], "response": row["prediction"]} for row in rows.values()]
    for name, lines in ((get(benchmark).file, problems), ("answers.jsonl", answers)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = folder / "out"
    began = time.monotonic()
    command = ["eval", "--predictions", str(folder / "answers.jsonl"), "--bench", benchmark]
    with contextlib.redirect_stdout(sys.stderr):
        if k15([*command, "--data", str(folder), "--out", str(out)]) != 0:
            raise SystemExit(1)
    verdicts = {item.id: item.verdicts[0] for item in read_results(out).benchmarks[0].problems}
    wrong = [name for name, row in rows.items() if (verdicts[name] == "correct") != row["expected"]]
    return {
        "file": file.name,
        "benchmark": benchmark,
        "responses": len(rows),
        "agreement": 1 - len(wrong) / len(rows),
        "ungradable": sum(verdict == "ungradable" for verdict in verdicts.values()),
        "seconds": round(time.monotonic() - began, 1),
        "disagreements": [
            {"id": name, "k15": verdicts[name], "expected": rows[name]["expected"], "answer": rows[name]["answer"]}
            for name in wrong
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    given = parser.parse_args()
    emit(environment())
    for name, benchmark in SETS.items():
        if not (given.data / name).is_file():
            sys.exit(f"no {name} in {given.data}")
        with tempfile.TemporaryDirectory() as folder:
            emit(agreement(given.data / name, benchmark, Path(folder)))


if __name__ == "__main__":
    main()
