"""Finished rollouts as Parquet, one file per iteration, one row per rollout.

``datasets.load_dataset("parquet", data_files="<run>/rollouts/*.parquet")`` reads them, as does any Parquet tool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import pyarrow as pa

from rl.rewarding import Graded, ScoredGroup
from rollout.parquet import FormatError, read_table, storable, write_tables
from rollout.types import Rollout

VERSION = b"1"
"""Raised when a column changes its meaning; stored in the file's metadata under ``k15.rollouts``."""

SCHEMA = pa.schema(
    [
        ("iteration", pa.int32()),  # in which the group completed
        ("group", pa.string()),
        ("rollout", pa.string()),  # <group>/<j>
        ("problem", pa.string()),  # problem id
        ("source", pa.string()),
        ("difficulty", pa.float64()),
        ("prompt", pa.string()),  # as the user would ask it, before the chat template
        ("answer", pa.string()),  # reference
        ("verifier", pa.string()),  # name of the verifier; empty in files of before it was stored
        ("opening", pa.string()),  # thinking that the prompt began for the model; graded was opening + response
        ("response", pa.string()),  # decoded; the joined segment texts
        ("segment_texts", pa.list_(pa.string())),
        ("segment_lengths", pa.list_(pa.int32())),  # tokens
        ("segment_versions", pa.list_(pa.int32())),  # weight version that drew the segment
        ("token_ids", pa.list_(pa.int32())),  # the response's tokens: the truth
        ("logprobs", pa.list_(pa.float32())),  # sampler's, nats, one per token
        ("length", pa.int32()),  # response tokens
        ("stop", pa.string()),  # eos, length, repetition, aborted
        ("correct", pa.bool_()),  # null: ungradable or never graded
        ("score", pa.float64()),  # verifier's total in [0, 1]; null: ungradable or never graded
        ("score_parts", pa.list_(pa.struct([("name", pa.string()), ("value", pa.float64())]))),
        ("reason", pa.string()),  # why wrong or ungradable
        ("extracted", pa.string()),  # answer read out of the response
        ("length_reward", pa.float64()),  # weight included
        ("reward", pa.float64()),  # used by training; null: masked
        ("advantage", pa.float64()),  # null: not in the loss
        ("trained", pa.bool_()),  # entered the loss
    ],
    metadata={b"k15.rollouts": VERSION},
)


_LATER = {"verifier": "", "opening": ""}
"""Columns that files of the same version may lack, and what then stands in them."""


class StoreError(RuntimeError):
    """A rollout file cannot be read or written."""


def segment_texts(rollout: Rollout, graded: Graded) -> tuple[str, ...]:
    """Decoded text of each segment. Joined, behind what the prompt began, they are the graded text.

    The boundaries come from decoding prefixes, not segments alone: tokenizers glue bytes and spaces across a boundary.
    A character that is split between two segments belongs to the later one.
    """
    prompt, ids = rollout.prompt_ids, rollout.token_ids
    whole = graded(prompt, ids)
    cuts = [len(graded(prompt, ()))]
    end = 0
    for segment in rollout.segments[:-1]:
        end += len(segment)
        cuts.append(max(cuts[-1], _common(whole, graded(prompt, ids[:end]))))
    return tuple(whole[start:stop] for start, stop in pairwise([*cuts, len(whole)])) if ids else ()


def to_table(
    iteration: int,
    scored: Sequence[ScoredGroup],
    advantages: Mapping[str, float],
    length_weight: float,
    graded: Graded,
) -> pa.Table:
    """The finished groups of an iteration as a table of ``SCHEMA``.

    ``advantages`` holds the rollouts that entered the loss, by id; ``length_weight`` is this iteration's w.
    """
    rows = [
        _row(iteration, item, j, advantages, length_weight, graded)
        for item in scored
        for j in range(len(item.group.rollouts))
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def write_rollouts(run_dir: Path, iteration: int, table: pa.Table) -> Path:
    """Store the table as ``rollouts/<iteration>.parquet``, written aside and renamed. Raises ``StoreError``."""
    path = run_dir / "rollouts" / f"{iteration:06d}.parquet"
    try:
        write_tables(path, table.schema, [table])
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error}; free space or choose another --run-dir") from error
    return path


def rollout_files(run_dir: Path) -> list[Path]:
    """The run's rollout files by iteration."""
    return sorted((run_dir / "rollouts").glob("[0-9]*.parquet"))


def read_rollouts(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """One file's rows, all columns or those named. Raises ``StoreError`` for a broken file or another version."""
    try:
        return read_table(path, SCHEMA, columns, _LATER)
    except FormatError as error:
        raise StoreError(str(error)) from error


def drop_rollouts_from(run_dir: Path, iteration: int) -> int:
    """Remove the files of ``iteration`` and later (a resumed run writes them again); returns how many."""
    late = [path for path in rollout_files(run_dir) if int(path.stem) >= iteration]
    for path in late:
        path.unlink()
    return len(late)


def _common(a: str, b: str) -> int:
    """Length of the longest common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _row(
    iteration: int,
    item: ScoredGroup,
    j: int,
    advantages: Mapping[str, float],
    length_weight: float,
    graded: Graded,
) -> dict[str, object]:
    problem, rollout = item.group.problem, item.group.rollouts[j]
    score = rollout.score
    texts = [storable(text) for text in segment_texts(rollout, graded)]
    return {
        "iteration": iteration,
        "group": item.group.id,
        "rollout": rollout.id,
        "problem": storable(problem.id),
        "source": storable(problem.source),
        "difficulty": problem.difficulty,
        "prompt": storable(problem.prompt),
        "answer": storable(problem.answer),
        "verifier": problem.verifier,
        "opening": storable(graded(rollout.prompt_ids, ())),
        "response": "".join(texts),
        "segment_texts": texts,
        "segment_lengths": [len(segment) for segment in rollout.segments],
        "segment_versions": [segment.version for segment in rollout.segments],
        "token_ids": rollout.token_ids,
        "logprobs": rollout.logprobs,
        "length": rollout.length,
        "stop": rollout.stop,
        "correct": score.correct if score and score.gradable else None,
        "score": score.total if score else None,
        "score_parts": [{"name": name, "value": value} for name, value in (score.parts if score else {}).items()],
        "reason": storable(score.reason) if score else "",
        "extracted": storable(score.extracted) if score else "",
        "length_reward": length_weight * item.length_rewards[j],
        "reward": item.rewards[j],
        "advantage": advantages.get(rollout.id),
        "trained": rollout.id in advantages,
    }
