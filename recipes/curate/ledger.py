"""Every row's fate: kept, or the stage that dropped it and why. Nothing vanishes.

A finished stage leaves ``drops.parquet`` in its folder, and what it has found out about rows that it kept in
``marks.parquet``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from recipes.curate.rows import Numbers
from rollout.parquet import FormatError, read_table, storable, write_tables

DROPS = pa.schema(
    {"number": pa.int64(), "reason": pa.string(), "detail": pa.string(), "other": pa.int64()},
    metadata={"k15.curate.drops": "1"},
)
"""``other``: the row that it is like, where there is one."""
MARKS = {"k15.curate.marks": "1"}


@dataclass(frozen=True)
class Drop:
    """A row that a stage has dropped."""

    number: int
    reason: str
    """One of few, to count by."""
    detail: str = ""
    """For a person."""
    other: int | None = None
    """Number of the row that it is like."""


@dataclass(frozen=True)
class Outcome:
    """What a stage has done with the rows that came to it."""

    drops: Sequence[Drop]
    marks: Mapping[str, Any] = field(default_factory=dict)
    """Name -> a value for each row of ``numbers``: a field of the rows that are kept to the end."""
    numbers: Numbers = field(default_factory=lambda: np.empty(0, np.int64))
    """The rows that ``marks`` are of."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON values for the report."""
    warnings: Sequence[str] = ()
    """Lines for the person who asked."""


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Write what a stage has done. Raises ``OSError``."""
    drops = sorted(outcome.drops, key=lambda drop: drop.number)
    columns = {
        "number": [drop.number for drop in drops],
        "reason": [drop.reason for drop in drops],
        "detail": [storable(drop.detail) for drop in drops],
        "other": [drop.other for drop in drops],
    }
    write_tables(folder / "drops.parquet", DROPS, [pa.table(columns, DROPS)])
    marks = {"number": pa.array(outcome.numbers, pa.int64())} | {k: pa.array(v) for k, v in outcome.marks.items()}
    table = pa.table(marks).replace_schema_metadata(MARKS)
    write_tables(folder / "marks.parquet", table.schema, [table])


def drops_of(folder: Path) -> pa.Table:
    """Return the rows that a finished stage has dropped, by number. Raises ``FormatError``."""
    return read_table(folder / "drops.parquet", DROPS)


def marks_of(folder: Path) -> pa.Table:
    """Return what a finished stage has noted about rows. Raises ``FormatError``."""
    path = folder / "marks.parquet"
    try:
        with pq.ParquetFile(path) as file:
            return file.read()
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{path}: not a readable Parquet file ({error}); remove {folder} to go on") from error


def without(numbers: Numbers, drops: pa.Table) -> Numbers:
    """Return the rows that are left."""
    return np.setdiff1d(numbers, drops.column("number").to_numpy(), assume_unique=True)


@dataclass(frozen=True)
class Fates:
    """What became of all rows of the sources, in columns."""

    stages: tuple[str, ...]
    stage: npt.NDArray[np.int8]
    """[rows]: which of ``stages`` dropped it; -1: none, it is kept."""
    at: npt.NDArray[np.int64]
    """[rows]: where in ``drops`` it stands."""
    drops: pa.Table
    """Of all stages."""

    @property
    def dropped(self) -> Numbers:
        """Rows that are not kept."""
        return np.flatnonzero(self.stage >= 0)

    def of(self, numbers: Numbers) -> list[tuple[str, Drop] | None]:
        """Return the stage that dropped each of some rows, and how; ``None`` for one that is kept."""
        lost = self.stage[numbers] >= 0
        drops = iter(self.drops.take(pa.array(self.at[numbers[lost]])).to_pylist())
        return [
            (self.stages[stage], Drop(**next(drops))) if stage >= 0 else None for stage in self.stage[numbers].tolist()
        ]


def fates_of(count: int, stages: Sequence[tuple[str, Path]]) -> Fates:
    """Return the fates of ``count`` rows, by names and folders of the stages that they have come through. Raises
    ``FormatError``.
    """
    stage, at = np.full(count, -1, np.int8), np.full(count, -1, np.int64)
    tables: list[pa.Table] = []
    begin = 0
    for index, (_, folder) in enumerate(stages):
        table = drops_of(folder)
        numbers = table.column("number").to_numpy()
        stage[numbers], at[numbers] = index, np.arange(begin, begin + len(numbers))
        begin += len(numbers)
        tables.append(table)
    return Fates(tuple(name for name, _ in stages), stage, at, pa.concat_tables(tables))
