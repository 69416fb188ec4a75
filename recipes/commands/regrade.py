"""``k15 grade RUN``: verdicts on the rollouts that a run has stored, by the path that training takes."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from rewards.reference import Reference
from rewards.score import GRADER_TIMEOUT_S, Score
from rewards.verify import WHOLE, get_verifier
from rl.config import RunConfig
from rollout.grading import verdict
from rollout.types import StopReason

BATCH = 1024
"""Rollouts that are read ahead of the graders."""


class RegradeError(ValueError):
    """The rollouts cannot be graded; one line."""


@dataclass(frozen=True)
class Stored:
    """Files of rollouts, and the run that they are of."""

    files: tuple[Path, ...]
    config: RunConfig | None
    extras: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Problem id -> further fields, for verifiers that need them (tests of programs)."""

    @property
    def verifier(self) -> str:
        """What files of before the verifier was stored were graded with; empty when unknown."""
        if self.config is None:
            return ""
        source = self.config.problems.train
        return str(getattr(source, "verifier", source.kind))


def find(path: Path) -> Stored:
    """The rollouts of a run directory, of one of its files, or of a copy of such a file.

    Raises ``RegradeError`` when there are none, or the run's configuration cannot be read.
    """
    from rl.record.rollout_store import rollout_files

    if not path.exists():
        raise RegradeError(f"{path}: no such file or directory")
    root = path if path.is_dir() else path.parent.parent
    files = tuple(rollout_files(path)) if path.is_dir() else (path,)
    if not files:
        raise RegradeError(f"{path}: holds no rollouts (no rollouts/*.parquet); name the directory of a run")
    config = _config(root / "config.yaml")
    if config is None and path.is_dir():
        raise RegradeError(f"{path}: not a run directory (no config.yaml in it)")
    return Stored(files, config, _extras(config) if config else {})


def _config(file: Path) -> RunConfig | None:
    from rl.config_io import ConfigError, read_file, validate

    if not file.is_file():
        return None
    try:
        return validate(read_file(file))
    except ConfigError as error:
        raise RegradeError(f"{file}: {error.lines[0]}") from error


def _extras(config: RunConfig) -> Mapping[str, Mapping[str, Any]]:
    from rollout.problems.build import build_source
    from rollout.problems.source import ProblemList

    if getattr(config.problems.train, "verifier", "") not in WHOLE:
        return {}
    source = build_source(config.problems.train, "train")
    return {problem.id: problem.extra for problem in source} if isinstance(source, ProblemList) else {}


def grade_row(row: Mapping[str, Any], stored: Stored, timeout_s: float) -> dict[str, Any]:
    """The verdict on one rollout of the store, with the one that was stored beside it."""
    name = row["verifier"] or stored.verifier
    if not name:
        raise RegradeError(
            f"rollout {row['rollout']!r}: its file does not say how it is graded; name its run directory"
        )
    extra = stored.extras.get(row["problem"], {})
    if name in WHOLE and not extra:
        raise RegradeError(
            f"rollout {row['rollout']!r}: the verifier {name!r} needs the tests of problem {row['problem']!r}; name "
            "the run directory, with its problem file in place"
        )

    def verify() -> Score:
        reference = Reference(row["answer"], row["prompt"], extra)
        return get_verifier(name, timeout_s)(row["opening"] + row["response"], reference)

    score = verdict(StopReason(row["stop"]) if row["stop"] else None, verify)
    before = "ungradable" if row["correct"] is None else "correct" if row["correct"] else "wrong"
    return {
        **{key: row[key] for key in ("iteration", "rollout", "problem")},
        "verdict": score.verdict,
        "extracted": score.extracted,
        "reason": score.reason,
        "stored": before,
    }


def graded(stored: Stored, timeout_s: float, workers: int) -> Iterator[dict[str, Any]]:
    """``grade_row`` of all rollouts, in the order of the store."""
    from rl.record.rollout_store import read_rollouts

    columns = (
        "iteration",
        "rollout",
        "problem",
        "prompt",
        "answer",
        "verifier",
        "opening",
        "response",
        "stop",
        "correct",
    )
    with ThreadPoolExecutor(workers, thread_name_prefix="grade") as threads:
        for file in stored.files:
            for batch in read_rollouts(file, columns).to_batches(BATCH):
                yield from threads.map(lambda row: grade_row(row, stored, timeout_s), batch.to_pylist())


def run(path: Path, sink: TextIO, timeout_s: float | None, workers: int | None) -> str:
    """Write one line per rollout to ``sink``; returns the summary. Raises ``RegradeError`` and ``StoreError``."""
    started = time.monotonic()
    stored = find(path)
    limit = timeout_s or (stored.config.reward.grader_timeout_s if stored.config else GRADER_TIMEOUT_S)
    counts: Counter[str] = Counter()
    for line in graded(stored, limit, workers or len(os.sched_getaffinity(0))):
        counts[line["verdict"]] += 1
        counts["other"] += line["verdict"] != line["stored"]
        print(json.dumps(line), file=sink)
    if not counts:
        raise RegradeError(f"{path}: holds no rollouts yet")
    parts = ", ".join(f"{counts[name]} {name}" for name in ("correct", "wrong", "ungradable"))
    total = sum(counts[name] for name in ("correct", "wrong", "ungradable"))
    same = "all as stored" if not counts["other"] else f"{counts['other']} other than stored"
    return f"{total} rollouts: {parts}; {same} ({time.monotonic() - started:.1f} s)"
