"""``agreement.html`` of a run: where its rule and its reward model disagreed on the rollouts that it has stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evals.agreement import judged, verdicts
from evals.report.agreement import FILE, Judgement, write_page
from rl.record.rollout_store import StoreError, read_rollouts, rollout_files

_LIGHT = ("rollout", "problem", "source", "difficulty", "length", "correct", "score_parts")
_TEXTS = ("prompt", "answer", "opening", "response", "last_turn", "reason", "opinion")


def write_agreement(run_dir: Path, title: str, facts: dict[str, Any]) -> str:
    """Write the page, if a reward model has judged; returns its name, or nothing. A broken file is left out. Raises
    ``OSError``.
    """
    found: list[Judgement] = []
    places: dict[str, tuple[Path, int]] = {}
    for path in rollout_files(run_dir):
        try:
            rows = read_rollouts(path, _LIGHT).to_pylist()
        except StoreError:  # the report names it
            continue
        found += [_light(row) for row in rows]
        places |= {row["rollout"]: (path, i) for i, row in enumerate(rows)}
    page = run_dir / FILE
    if not judged(one.verdicts for one in found):
        page.unlink(missing_ok=True)
        return ""
    write_page(page, title, facts, found, lambda chosen: _with_texts(chosen, places))
    return FILE


def _light(row: dict[str, Any]) -> Judgement:
    parts = {part["name"]: part["value"] for part in row["score_parts"]}
    return Judgement(
        id=row["rollout"],
        verdicts=verdicts(row["problem"], row["correct"], parts),
        question="",
        reference="",
        response="",
        verdict="ungradable" if row["correct"] is None else "correct" if row["correct"] else "wrong",
        source=row["source"],
        difficulty=row["difficulty"],
        tokens=row["length"],
    )


def _with_texts(chosen: Sequence[Judgement], places: dict[str, tuple[Path, int]]) -> list[Judgement]:
    """Return the rollouts with their texts, which are read of these alone."""
    wanted: dict[Path, list[tuple[int, Judgement]]] = {}
    for one in chosen:
        path, index = places[one.id]
        wanted.setdefault(path, []).append((index, one))
    filled: dict[str, Judgement] = {}
    for path, members in wanted.items():
        rows = read_rollouts(path, _TEXTS).take([index for index, _ in members]).to_pylist()
        filled |= {one.id: _filled(one, row) for (_, one), row in zip(members, rows, strict=True)}
    return [filled[one.id] for one in chosen]


def _filled(one: Judgement, row: dict[str, Any]) -> Judgement:
    turn = row["response"] if row["last_turn"] is None else row["last_turn"]
    return replace(
        one,
        question=row["prompt"],
        reference=row["answer"],
        response=row["opening"] + turn,
        reason=row["reason"],
        opinion=row["opinion"],
    )
