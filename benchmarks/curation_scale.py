"""How long and with how much memory k15 curates: 50,000 problems of some 200 tokens, and what a million would take.

    python -m benchmarks.curation_scale [--rows 50000] [--encoders static,sentence] [--smoke]

The problems are made of real ones ($K15_DATA: GSM8K train, MATH train, ASDiv, SVAMP, MAWPS): two to five statements
behind each other until the text is long enough, every number changed, so that no two are the same; then 4 % are
repeated word for word, 4 % with other spacing and case, 4 % with other numbers. ``k15 curate`` runs on them as a user
would, with GSM8K test, MATH-500 and AIME 2024 to be kept clear of, once for each encoder. Measured: seconds of each
stage, peak memory of the whole process tree as PSS. A million takes in proportion; the search for neighbours is exact
up to a size only, and beyond it in proportion, too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.common import CACHE, ROOT, MemoryWatch, emit, environment, say
from rollout.problems.jsonl import read_rows

SOURCES = ("gsm8k_train", "math_train", "asdiv", "svamp", "mawps")
AGAINST = ("gsm8k", "math500", "aime2024")
MILLION = 1_000_000
CHARACTERS = 800
"""Of a text of some 200 tokens."""
_NUMBER = re.compile(r"\d+")


def statements(data: Path) -> list[tuple[str, str]]:
    """Statement and answer of all real problems with one number for an answer."""
    found = []
    for name in SOURCES:
        for _, row in read_rows(data / f"{name}.jsonl"):
            answer = str(row["answer"])
            if answer.lstrip("-").isdigit() and not row.get("defect"):
                found.append((str(row["problem"]), answer))
    return found


def other_numbers(text: str, rng: random.Random) -> str:
    """The text with every number replaced by another of as many digits."""
    return _NUMBER.sub(
        lambda m: str(rng.randrange(10 ** (len(m[0]) - 1), 10 ** len(m[0]))) if len(m[0]) < 9 else m[0], text
    )


def made(real: Sequence[tuple[str, str]], count: int, rng: random.Random) -> Iterator[dict[str, str]]:
    """Rows; one in eight repeats an earlier one in some form."""
    kept: list[tuple[str, str]] = []
    for number in range(count):
        kind = rng.random()
        if kept and kind < 0.12:
            text, answer = rng.choice(kept)
            if kind >= 0.08:
                text, answer = other_numbers(text, rng), str(rng.randrange(1000))
            elif kind >= 0.04:
                text = "  ".join(text.upper().split())
        else:
            parts: list[str] = []
            while sum(map(len, parts)) < CHARACTERS:
                said, answer = rng.choice(real)
                parts.append(other_numbers(said, rng))
            text = " ".join(parts)
            kept.append((text, answer))
        yield {"id": f"made-{number}", "problem": text, "answer": answer}


def processor_seconds() -> float:
    """Of all child processes that have ended, theirs included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(source: Path, encoder: str, out: Path) -> dict[str, object]:
    """Curate once; seconds of each stage and the peak of memory."""
    command = [str(Path(sys.executable).parent / "k15"), "curate", str(source), "--out", str(out)]
    command += [part for name in AGAINST for part in ("--against", name)]
    command += ["--encoder.kind", encoder]
    began, spent = time.monotonic(), processor_seconds()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    with MemoryWatch(process.pid) as watch:
        code = process.wait()
    wall = time.monotonic() - began
    if code:
        raise SystemExit(f"k15 curate ended with {code}")
    summary = json.loads((out / "summary.json").read_bytes())["results"]
    stages = {stage["name"]: stage["seconds"] for stage in summary["stages"] if not stage["skipped"]}
    dropped = {stage["name"]: sum(stage["reasons"].values()) for stage in summary["stages"] if not stage["skipped"]}
    cpu = round(processor_seconds() - spent, 1)
    return {
        "wall_s": round(wall, 1),
        "cpu_s": cpu,
        "stages_s": stages,
        "dropped": dropped,
        "peak_gib": round(watch.peak / 2**30, 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--encoders", default="static,sentence")
    parser.add_argument("--smoke", action="store_true", help="400 rows")
    arguments = parser.parse_args()
    count = 400 if arguments.smoke else arguments.rows
    if not os.environ.get("K15_DATA"):
        raise SystemExit("curation_scale: $K15_DATA has to name the folder of data files")
    folder = CACHE / "curation_scale"
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / f"rows-{count}.jsonl"
    if not source.exists():
        say(f"making {count} problems")
        real = statements(Path(os.environ["K15_DATA"]))
        rows = made(real, count, random.Random(0))
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    emit({"benchmark": "curation_scale", "rows": count, **environment()})
    for encoder in arguments.encoders.split(","):
        out = folder / f"out-{count}-{encoder}"
        subprocess.run(["rm", "-rf", str(out)], check=True)
        say(f"curating with the encoder {encoder}")
        found = measured(source, encoder, out)
        stages = found["stages_s"]
        assert isinstance(stages, dict)
        hours, cpu = (
            seconds * MILLION / count / 3600 for seconds in (sum(stages.values()), float(str(found["cpu_s"])))
        )
        emit({"encoder": encoder, "rows": count, **found, "million_h": round(hours, 2), "million_cpu_h": round(cpu, 2)})


if __name__ == "__main__":
    main()
