"""Groups and progress as Arrow tables and back, exactly: for checkpoints and the journal.

Token data stay arrays on the way: written from them, read as views of what was read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rewards.score import Score
from rollout.engine import Delta
from rollout.types import NO_POINTERS, Author, Group, Message, Problem, Prompt, Rollout, Segment, StopReason, joined

_IDS, _LOGPROBS, _POINTERS = pa.list_(pa.int32()), pa.list_(pa.float32()), pa.list_(pa.int16())

_MOST = 2**31 - 1
"""Most elements of a list column: Arrow's offsets are 32-bit."""

DELTAS = pa.schema(
    [
        ("key", pa.string()),
        ("version", pa.int32()),
        ("by", pa.string()),
        ("token_ids", _IDS),
        ("logprobs", _LOGPROBS),  # empty where the environment wrote
        ("done", pa.bool_()),
        ("stop", pa.string()),
        ("error", pa.string()),
        ("score", pa.string()),  # JSON; null: none
        ("pointers", _POINTERS),  # empty without evidence
    ]
)
"""One row per piece of progress."""

GROUPS = pa.schema(
    [
        ("group", pa.string()),
        ("born", pa.int32()),
        ("problem", pa.string()),  # JSON; null: that of the row before
        ("rollout", pa.string()),
        ("prompt", _IDS),
        ("versions", pa.list_(pa.int32())),  # of each segment
        ("lengths", pa.list_(pa.int32())),
        ("by", pa.list_(pa.string())),
        ("token_ids", _IDS),  # of all segments
        ("logprobs", _LOGPROBS),  # of the sampled ones
        ("stop", pa.string()),
        ("failures", pa.int32()),
        ("score", pa.string()),
        ("judged", pa.bool_()),
        ("windows", pa.list_(_IDS)),  # of the prompt
        ("pointers", _POINTERS),  # of all segments, or of none
    ]
)
"""One row per rollout, in the order of the groups."""


def ragged(parts: Sequence[np.ndarray], dtype: Any, kind: pa.DataType) -> pa.ListArray:
    """Return a list column of one array per row, without a Python object per element. ``kind``: the column's type."""
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    if offsets[-1] > _MOST:
        raise ValueError(f"{offsets[-1]} tokens are more than one table of lists holds ({_MOST})")
    offsets = offsets.astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(joined(parts, dtype), kind.value_type))


def views(column: pa.ListArray | pa.ChunkedArray) -> list[np.ndarray]:
    """Return the arrays of a list column, as views of its buffer."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    values, offsets = column.values.to_numpy(), column.offsets.to_numpy()
    return [values[start:end] for start, end in pairwise(offsets)]


def deltas_to_batch(deltas: Sequence[Delta]) -> pa.RecordBatch:
    """Return progress as a record batch of ``DELTAS``."""
    columns = [
        pa.array([delta.key for delta in deltas], pa.string()),
        pa.array([delta.version for delta in deltas], pa.int32()),
        pa.array([delta.by for delta in deltas], pa.string()),
        ragged([delta.token_ids for delta in deltas], np.int32, _IDS),
        ragged([delta.logprobs for delta in deltas], np.float32, _LOGPROBS),
        pa.array([delta.done for delta in deltas], pa.bool_()),
        pa.array([delta.stop for delta in deltas], pa.string()),
        pa.array([delta.error for delta in deltas], pa.string()),
        pa.array([_score_text(delta.score) for delta in deltas], pa.string()),
        ragged([delta.pointers for delta in deltas], np.int16, _POINTERS),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=DELTAS)


def deltas_from_batch(batch: pa.RecordBatch) -> list[Delta]:
    """Inverse of ``deltas_to_batch``."""
    plain = batch.select(["key", "version", "by", "done", "stop", "error", "score"]).to_pylist()
    tokens, logprobs = views(batch.column("token_ids")), views(batch.column("logprobs"))
    pointers = _pointers(batch)
    return [
        Delta(
            row["key"],
            ids,
            values,
            row["version"],
            row["done"],
            _stop(row["stop"]),
            row["error"],
            Author(row["by"]),
            _score(row["score"]),
            told,
        )
        for row, ids, values, told in zip(plain, tokens, logprobs, pointers, strict=True)
    ]


def _pointers(table: pa.Table | pa.RecordBatch) -> list[np.ndarray]:
    """Return the pointers of each row; files of before there was evidence have none."""
    if "pointers" not in table.schema.names:
        return [NO_POINTERS] * table.num_rows
    return views(table.column("pointers"))


def groups_to_table(groups: Sequence[Group]) -> pa.Table:
    """Return groups with their problems, rollouts and segments as a table of ``GROUPS``."""
    rows = [(group, j, rollout) for group in groups for j, rollout in enumerate(group.rollouts)]
    rollouts = [rollout for _, _, rollout in rows]
    segments = [rollout.segments for rollout in rollouts]
    columns = [
        pa.array([group.id for group, _, _ in rows], pa.string()),
        pa.array([group.born for group, _, _ in rows], pa.int32()),
        pa.array([problem_text(group.problem) if j == 0 else None for group, j, _ in rows], pa.string()),
        pa.array([rollout.id for rollout in rollouts], pa.string()),
        ragged([rollout.prompt.token_ids for rollout in rollouts], np.int32, _IDS),
        pa.array([[s.version for s in row] for row in segments], pa.list_(pa.int32())),
        pa.array([[len(s) for s in row] for row in segments], pa.list_(pa.int32())),
        pa.array([[s.by.value for s in row] for row in segments], pa.list_(pa.string())),
        ragged([rollout.token_ids for rollout in rollouts], np.int32, _IDS),
        ragged([joined([s.logprobs for s in row], np.float32) for row in segments], np.float32, _LOGPROBS),
        pa.array([rollout.stop and rollout.stop.value for rollout in rollouts], pa.string()),
        pa.array([rollout.failures for rollout in rollouts], pa.int32()),
        pa.array([_score_text(rollout.score) for rollout in rollouts], pa.string()),
        pa.array([rollout.judged for rollout in rollouts], pa.bool_()),
        pa.array([[w.token_ids for w in rollout.prompt.windows] for rollout in rollouts], pa.list_(_IDS)),
        ragged([r.pointers if r.prompt.windows else NO_POINTERS for r in rollouts], np.int16, _POINTERS),
    ]
    return pa.Table.from_arrays(columns, schema=GROUPS)


def groups_from_table(table: pa.Table) -> list[Group]:
    """Inverse of ``groups_to_table``."""
    arrays = {name: views(table.column(name)) for name in ("prompt", "token_ids", "logprobs")}
    pointers = _pointers(table)
    rows = table.drop_columns([*arrays, *({"pointers"} & {*table.schema.names})]).to_pylist()
    groups: list[Group] = []
    for index, row in enumerate(rows):
        segments = tuple(_segments(row, arrays["token_ids"][index], arrays["logprobs"][index], pointers[index]))
        rollout = Rollout(
            row["rollout"],
            Prompt(arrays["prompt"][index], tuple(map(Prompt, row.get("windows", ())))),
            segments,
            _stop(row["stop"]),
            _score(row["score"]),
            row["failures"],
            row["judged"],
        )
        if row["problem"] is not None:
            groups.append(Group(row["group"], problem_from_text(row["problem"]), (rollout,), row["born"]))
        else:
            groups[-1] = groups[-1].with_rollouts((*groups[-1].rollouts, rollout))
    return groups


def write_groups(path: Path, groups: Sequence[Group]) -> None:
    """Write groups as an Arrow file."""
    table = groups_to_table(groups)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def read_groups(path: Path) -> list[Group]:
    """Inverse of ``write_groups``."""
    with pa.OSFile(str(path), "rb") as file:
        return groups_from_table(pa.ipc.open_file(file).read_all())


def _segments(
    row: Mapping[str, Any], tokens: np.ndarray, logprobs: np.ndarray, pointers: np.ndarray
) -> Iterator[Segment]:
    start = sampled = 0
    for version, length, name in zip(row["versions"], row["lengths"], row["by"], strict=True):
        by, end = Author(name), start + length
        own = length if by is Author.POLICY else 0
        yield Segment(version, tokens[start:end], logprobs[sampled : sampled + own], by, pointers[start:end])
        start, sampled = end, sampled + own


def problem_text(problem: Problem) -> str:
    """Return the problem as JSON."""
    return json.dumps(asdict(problem))


def problem_from_text(text: str) -> Problem:
    """Inverse of ``problem_text``."""
    fields = json.loads(text)
    messages = tuple(Message(**message) for message in fields.pop("messages"))
    return Problem(messages=messages, **fields)


def _score_text(score: Score | None) -> str | None:
    return None if score is None else json.dumps(asdict(score))


def _score(text: str | None) -> Score | None:
    return None if text is None else Score(**json.loads(text))


def _stop(name: str | None) -> StopReason | None:
    return None if name is None else StopReason(name)
