"""The rows of all sources on disk: normalised, checked, numbered; read again a shard or a column at a time.

``rows/00000.parquet``, ...: ``SHARD`` rows each, in the order of the sources. A row that is no problem is there too,
with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rollout.parquet import read_table, write_tables

SHARD = 5000
"""Rows of a shard."""
SCHEMA = pa.schema(
    {
        "number": pa.int64(),
        "source": pa.int32(),
        "place": pa.string(),
        "id": pa.string(),
        "statement": pa.string(),
        "answer": pa.string(),
        "verifier": pa.string(),
        "difficulty": pa.float64(),
        "language": pa.string(),
        "domain": pa.string(),
        "row": pa.string(),
        "reason": pa.string(),
        "detail": pa.string(),
    },
    metadata={"k15.curate.rows": "1"},
)
"""``number``: from 0, over all sources. ``source``: which one. ``answer``: what other
answers are compared with; of a rationale its end. ``row``: all of it as JSON, normalised, our names.
``reason``: why it is no problem, empty when it is one."""
Numbers = npt.NDArray[np.int64]
"""[n] numbers of rows, ascending."""


@dataclass(frozen=True)
class Rows:
    """The shards in a folder."""

    folder: Path

    def path(self, shard: int) -> Path:
        """Return the file of a shard."""
        return self.folder / f"{shard:05d}.parquet"

    def write(self, shard: int, table: pa.Table) -> None:
        """Write a shard, whole or not at all. Raises ``OSError``."""
        write_tables(
            self.path(shard), SCHEMA, [table], dictionary=["source", "verifier", "language", "domain", "reason"]
        )

    @cached_property
    def shards(self) -> int:
        """Number of shards."""
        return len(list(self.folder.glob("[0-9]*.parquet")))

    @cached_property
    def count(self) -> int:
        """Number of rows."""
        return sum(pq.ParquetFile(self.path(shard)).metadata.num_rows for shard in range(self.shards))

    def read(self, shard: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Return columns of a shard. Raises ``FormatError``."""
        return read_table(self.path(shard), SCHEMA, columns)

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a column of all rows, in order; texts take their bytes and no more."""
        return pa.chunked_array(
            [chunk for shard in range(self.shards) for chunk in self.read(shard, [name]).column(name).chunks],
            SCHEMA.field(name).type,
        )

    def chosen(self, numbers: Numbers, columns: Sequence[str]) -> Iterator[tuple[Numbers, pa.Table]]:
        """Yield, a shard at a time, which of ``numbers`` lie in it and their columns."""
        for shard in range(self.shards):
            begin = shard * SHARD
            low, high = np.searchsorted(numbers, [begin, begin + SHARD])
            if low < high:
                wanted = numbers[low:high]
                yield wanted, self.read(shard, columns).take(pa.array(wanted - begin))

    def texts(self, numbers: Numbers, column: str = "statement") -> pa.ChunkedArray:
        """Return one column of the rows ``numbers``, in order."""
        chunks = [table.column(column) for _, table in self.chosen(numbers, [column])]
        return pa.chunked_array(
            [one for column in chunks for one in column.chunks],
            SCHEMA.field(column).type,
        )

    def some(self, numbers: Sequence[int], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
        """Return a few rows by number."""
        wanted = np.unique(np.asarray(numbers, np.int64))
        found: dict[int, dict[str, Any]] = {}
        for own, table in self.chosen(wanted, columns):
            found |= dict(zip(own.tolist(), table.to_pylist(), strict=True))
        return found
