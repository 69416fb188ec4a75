"""Rows of a Parquet file, as those of a JSON Lines file come (``rollout.problems.jsonl.read_rows``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rollout.problems.source import ProblemError

BATCH = 1024
"""Rows that are in memory at a time."""


def _all(_: str) -> bool:
    return True


def parquet_rows(path: Path, wanted: Callable[[str], bool] = _all) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number (from 1) and the ``wanted`` columns of each row. Raises ``ProblemError``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if wanted(name)]
            for batch in file.iter_batches(BATCH, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        OverflowError,
    ) as error:  # text that is no UTF-8, dates beyond Python's
        reason = " ".join(str(error).split())[:200]
        raise ProblemError(f"{path}: not a readable Parquet file ({reason}); name another") from error
