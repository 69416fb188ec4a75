"""Parquet files that are never half written and record the version of their columns.

A schema's metadata is one entry: what the file holds, and the version, which is raised when a column changes its
meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rollout.files import written_aside

NOTHING: Mapping[str, Any] = MappingProxyType({})


class FormatError(ValueError):
    """A file is not Parquet, or has another version; one line."""


def write_tables(
    path: Path, schema: pa.Schema, tables: Iterable[pa.Table], dictionary: bool | Sequence[str] = True
) -> None:
    """Write the tables as one file, written aside and renamed. Raises ``OSError``.

    ``dictionary`` names the columns that are stored by a dictionary of their values; all of them by default.
    """
    with (
        written_aside(path) as aside,
        pq.ParquetWriter(aside, schema, compression="zstd", use_dictionary=dictionary) as writer,
    ):
        for table in tables:
            if table.num_rows:  # datasets cannot read an empty row group, but reads a file that has none
                writer.write_table(table)


def read_table(
    path: Path, schema: pa.Schema, columns: Sequence[str] | None = None, later: Mapping[str, Any] = NOTHING
) -> pa.Table:
    """Return all columns of a file or those named. Raises ``FormatError`` for a broken file or another version.

    ``later``: columns that files of this version may lack, and what then stands in them.
    """
    wanted, (kind, version) = list(columns or schema.names), next(iter(schema.metadata.items()))
    try:
        with pq.ParquetFile(path) as file:
            found = (file.schema_arrow.metadata or {}).get(kind)
            if found != version:
                raise FormatError(f"{path}: format {found!r}, this k15 reads {version!r}; use the k15 that wrote it")
            table = file.read(columns=wanted)
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{path}: not a readable Parquet file ({error}); remove it to go on without it") from error
    for name, value in later.items():
        if name in wanted and name not in table.column_names:
            table = table.append_column(name, pa.array([value] * table.num_rows, schema.field(name).type))
    return table


def storable(text: str) -> str:
    """Return ``text`` with question marks for lone surrogates, which cannot be stored."""
    return text.encode("utf-8", "replace").decode("utf-8")
