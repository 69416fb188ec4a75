"""Finished rollouts as Parquet, one file per iteration, one row per rollout.

``datasets.load_dataset("parquet", data_files="<run>/rollouts/*.parquet")`` reads them, as does any Parquet tool.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from rl.rewarding import Graded, ScoredGroup
from rollout.parquet import FormatError, read_table, storable, write_tables
from rollout.serial import ragged
from rollout.types import Rollout, Segment, TokenIds, joined

_NONE: TokenIds = np.empty(0, np.int32)
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
        ("prompt", pa.string()),  # the question, before the chat template
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),  # all of the problem's
        ("answer", pa.string()),  # reference
        ("verifier", pa.string()),  # name of the verifier; empty in files of before it was stored
        ("opening", pa.string()),  # thinking that the prompt began for the model's last turn
        ("response", pa.string()),  # decoded; the joined segment texts
        ("last_turn", pa.string()),  # its last turn, graded behind the opening; null: all of the response is
        ("turns", pa.int32()),  # of the policy
        ("segment_texts", pa.list_(pa.string())),
        ("segment_lengths", pa.list_(pa.int32())),  # tokens
        ("segment_versions", pa.list_(pa.int32())),  # weight version that drew the segment
        ("segment_by", pa.list_(pa.string())),  # policy or environment
        ("token_ids", pa.list_(pa.int32())),  # the response's tokens: the truth
        ("logprobs", pa.list_(pa.float32())),  # sampler's, nats, one per token; NaN where the environment wrote
        ("length", pa.int32()),  # tokens drawn by the policy
        ("stop", pa.string()),  # eos, length, repetition, aborted
        ("judged_by", pa.string()),  # verifier or environment
        ("correct", pa.bool_()),  # null: ungradable or never graded
        ("score", pa.float64()),  # the grader's reward, before length and penalties; null: ungradable or never graded
        ("score_parts", pa.list_(pa.struct([("name", pa.string()), ("value", pa.float64())]))),
        ("reason", pa.string()),  # why wrong or ungradable
        ("extracted", pa.string()),  # answer read out of the response
        ("opinion", pa.string()),  # what a reward model wrote of it last; its verdict is among score_parts
        ("length_reward", pa.float64()),  # weight included
        ("reward", pa.float64()),  # used by training; null: masked
        ("advantage", pa.float64()),  # null: not in the loss
        ("trained", pa.bool_()),  # entered the loss
    ],
    metadata={b"k15.rollouts": VERSION},
)


_LATER = {
    "verifier": "",
    "opening": "",
    "messages": None,
    "last_turn": None,
    "turns": 1,
    "segment_by": None,
    "judged_by": "verifier",
    "opinion": "",
}
"""Columns that files of the same version may lack, with their values then."""


_REPETITIVE = [
    *("group", "problem", "source", "prompt", "answer", "verifier", "opening", "stop", "judged_by", "reason"),
    *("segment_by.list.element", "score_parts.list.element.name"),
]
"""Columns stored with a dictionary of their values, which for token data would only cost time."""


TOGETHER = 2**21
"""Number of tokens in a row group."""


class StoreError(RuntimeError):
    """A rollout file cannot be read or written."""


def segment_texts(rollout: Rollout, graded: Graded) -> tuple[str, ...]:
    """Return the decoded text of each segment. Those of the last turn joined, behind what its prompt began, are the
    graded text.

    The boundaries inside a turn come from decoding prefixes, not segments alone: tokenizers glue bytes and spaces
    across a boundary. A character that is split between two segments belongs to the later one.
    """
    texts: list[str] = []
    before, turn = [rollout.prompt.token_ids], list[Segment]()
    for segment in rollout.segments:
        if segment.sampled:
            turn.append(segment)
            continue
        texts += [*_turn_texts(joined(before, np.int32), turn, graded), graded(_NONE, segment.token_ids)]
        before += [*(part.token_ids for part in turn), segment.token_ids]
        turn = []
    return (*texts, *_turn_texts(joined(before, np.int32), turn, graded))


def _turn_texts(before: TokenIds, turn: Sequence[Segment], graded: Graded) -> list[str]:
    ids = joined([segment.token_ids for segment in turn], np.int32)
    if not len(ids):
        return []
    whole, cuts, end = graded(before, ids), [len(graded(before, _NONE))], 0
    for segment in turn[:-1]:
        end += len(segment)
        cuts.append(max(cuts[-1], _common(whole, graded(before, ids[:end]))))
    return [whole[start:stop] for start, stop in pairwise([*cuts, len(whole)])]


def to_table(
    iteration: int,
    scored: Sequence[ScoredGroup],
    advantages: Mapping[str, float],
    length_weight: float,
    graded: Graded,
) -> pa.Table:
    """Return the finished groups of an iteration as a table of ``SCHEMA``.

    ``advantages`` holds the rollouts that entered the loss, by id; ``length_weight`` is this iteration's w.
    """
    rollouts = [rollout for item in scored for rollout in item.group.rollouts]
    rows = [
        _row(iteration, item, j, advantages, length_weight, graded)
        for item in scored
        for j in range(len(item.group.rollouts))
    ]
    arrays = {
        "token_ids": ragged([rollout.token_ids for rollout in rollouts], np.int32, SCHEMA.field("token_ids").type),
        "logprobs": ragged([rollout.logprobs for rollout in rollouts], np.float32, SCHEMA.field("logprobs").type),
    }
    columns = [arrays[f.name] if f.name in arrays else pa.array([row[f.name] for row in rows], f.type) for f in SCHEMA]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def write_rollouts(run_dir: Path, iteration: int, table: pa.Table) -> Path:
    """Store the table as ``rollouts/<iteration>.parquet``, written aside and renamed. Raises ``StoreError``."""
    path = run_dir / "rollouts" / f"{iteration:06d}.parquet"
    try:
        write_tables(path, table.schema, _parts(table), _REPETITIVE)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error}; free space or choose another --run-dir") from error
    return path


def _parts(table: pa.Table) -> Iterator[pa.Table]:
    """Yield the table in row groups, because encoding takes as much memory again as what is encoded at one time."""
    tokens = sum(len(chunk.values) for chunk in table.column("token_ids").chunks)
    rows = max(1, table.num_rows * TOGETHER // max(tokens, TOGETHER))
    for start in range(0, table.num_rows, rows):
        yield table.slice(start, rows)


def rollout_files(run_dir: Path) -> list[Path]:
    """Return the run's rollout files by iteration."""
    return sorted((run_dir / "rollouts").glob("[0-9]*.parquet"))


def read_rollouts(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one file's rows, all columns or those named. Raises ``StoreError`` for a broken file or another version."""
    try:
        return read_table(path, SCHEMA, columns, _LATER)
    except FormatError as error:
        raise StoreError(str(error)) from error


def drop_rollouts_from(run_dir: Path, iteration: int) -> int:
    """Remove the files of ``iteration`` and later (a resumed run writes them again), and what a process that was killed
    had begun to write; returns how many of the former.
    """
    for begun in (run_dir / "rollouts").glob(".*.tmp"):
        begun.unlink()
    late = [path for path in rollout_files(run_dir) if int(path.stem) >= iteration]
    for path in late:
        path.unlink()
    return len(late)


def _common(a: str, b: str) -> int:
    """Return the length of the longest common prefix."""
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
    first_of_last = len(texts) - sum(segment.sampled for segment in rollout.segments[rollout.turn_start :])
    return {
        "iteration": iteration,
        "group": item.group.id,
        "rollout": rollout.id,
        "problem": storable(problem.id),
        "source": storable(problem.source),
        "difficulty": problem.difficulty,
        "prompt": storable(problem.prompt),
        "messages": [{"role": one.role, "content": storable(one.content)} for one in problem.messages],
        "answer": storable(problem.answer),
        "verifier": problem.verifier,
        "opening": storable(graded(rollout.before_last_turn(), _NONE)),
        "response": "".join(texts),
        "last_turn": "".join(texts[first_of_last:]) if rollout.turns > 1 else None,
        "turns": rollout.turns,
        "segment_texts": texts,
        "segment_lengths": [len(segment) for segment in rollout.segments],
        "segment_versions": [segment.version for segment in rollout.segments],
        "segment_by": [segment.by.value for segment in rollout.segments],
        "length": rollout.length,
        "stop": rollout.stop,
        "judged_by": "environment" if rollout.judged else "verifier",
        "correct": score.correct if score and score.gradable else None,
        "score": score.reward if score else None,
        "score_parts": [{"name": name, "value": value} for name, value in (score.parts if score else {}).items()],
        "reason": storable(score.reason) if score else "",
        "extracted": storable(score.extracted) if score else "",
        "opinion": storable(score.opinion) if score else "",
        "length_reward": length_weight * item.length_rewards[j],
        "reward": item.rewards[j],
        "advantage": advantages.get(rollout.id),
        "trained": rollout.id in advantages,
    }
