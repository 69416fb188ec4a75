"""The choice of the rollouts that the report shows: a few hundred of perhaps hundreds of thousands, always the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.agreement import Verdicts, verdicts
from evals.report.page.choice import choose
from rl.record.rollout_store import StoreError, read_rollouts, rollout_files
from rollout.plain import clip

SHOWN = 300
"""Most rollouts that the page holds."""
TEXT_LIMIT = 12_000
"""Characters of one segment or prompt; beyond it head and tail are shown."""
TEXT_BUDGET = 2_000_000
"""Characters of all rollouts together; keeps the page below about 6 MB in any script."""

_LIGHT = ["iteration", "correct", "score", "score_parts", "stop", "segment_versions", "turns"]
_SHOWN_COLUMNS = [
    *("iteration", "rollout", "problem", "source", "difficulty", "prompt", "answer", "opening", "segment_texts"),
    *(
        "segment_lengths",
        "segment_versions",
        "segment_by",
        "turns",
        "length",
        "stop",
        "correct",
        "score",
        "score_parts",
        "reason",
    ),
    *("score_parts", "reason", "extracted", "opinion", "length_reward", "reward", "advantage", "trained"),
]


@dataclass(frozen=True)
class Candidate:
    """A stored rollout that may be shown: its place and its kinds."""

    file: int
    row: int
    kinds: tuple[str, ...]
    """Its outcome (see ``outcome``), its stop reason, and ``partial`` when it has several weight versions."""


@dataclass(frozen=True)
class Samples:
    """The rollouts of the page."""

    rows: list[dict[str, Any]]
    """Rows as in Parquet, without tokens, with texts clipped and ``outcome`` added."""
    total: int
    """Rollouts stored by the run."""
    problems: list[str]
    """Files that could not be read, one line each."""


def outcome(correct: bool | None, score: float | None) -> str:
    """Return ``right``, ``wrong``, ``partly`` (some reward) or ``ungraded`` (grader failed, or given up before
    grading).
    """
    if correct is None:
        return "ungraded"
    if correct:
        return "right"
    return "partly" if score is not None and score > 0 else "wrong"


def load_samples(run_dir: Path, limit: int = SHOWN) -> Samples:
    """Choose and read rollouts of a run; a broken file is left out and named in ``problems``."""
    files = rollout_files(run_dir)
    candidates: list[Candidate] = []
    problems: list[str] = []
    for number, path in enumerate(files):
        try:
            light = read_rollouts(path, _LIGHT).to_pylist()
        except StoreError as error:
            problems.append(str(error))
            continue
        candidates += [Candidate(number, i, _kinds(row)) for i, row in enumerate(light)]
    chosen = choose(candidates, lambda item: item.kinds, limit)
    rows: list[dict[str, Any]] = []
    for number in sorted({item.file for item in chosen}):
        table = read_rollouts(files[number], _SHOWN_COLUMNS)
        rows += table.take([item.row for item in chosen if item.file == number]).to_pylist()
    return Samples([_shown(row, TEXT_BUDGET // max(1, len(rows))) for row in rows], len(candidates), problems)


def _kinds(row: dict[str, Any]) -> tuple[str, ...]:
    kinds = [outcome(row["correct"], row["score"]), f"stop {row['stop']}"]
    both = _both(row)
    kinds += [both.kind] if both.model is not None else []
    kinds += ["partial"] if len(set(row["segment_versions"])) > 1 else []
    return (*kinds, "turns") if row["turns"] > 1 else tuple(kinds)


def _both(row: dict[str, Any]) -> Verdicts:
    """Return the verdicts of rule and reward model on a rollout."""
    return verdicts("", row["correct"], {part["name"]: part["value"] for part in row["score_parts"]})


def _shown(row: dict[str, Any], budget: int) -> dict[str, Any]:
    limit = min(TEXT_LIMIT, max(400, budget // (1 + len(row["segment_texts"]))))
    both = _both(row)
    texts = [clip(text, limit) for text in row.pop("segment_texts")]
    lengths, authors = row.pop("segment_lengths"), row.pop("segment_by") or ["policy"] * len(texts)
    segments = zip(texts, lengths, row.pop("segment_versions"), authors, strict=True)
    return row | {
        "prompt": clip(row["prompt"], limit),
        "opening": clip(row["opening"], limit),
        "answer": clip(row["answer"], 400),
        "extracted": clip(row["extracted"], 400),
        "reason": clip(row["reason"], 400),
        "opinion": clip(row["opinion"], limit),
        "rule": both.rule,
        "model": both.model,
        "probability": both.probability,
        "segments": [{"text": text, "tokens": n, "version": version, "by": by} for text, n, version, by in segments],
        "outcome": outcome(row["correct"], row["score"]),
    }
