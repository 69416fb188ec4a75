"""The stages as the pipeline calls them: from numbers of rows to an ``Outcome``.

The rules themselves are elsewhere, as functions of texts, vectors and answers.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recipes.curate.formats import excluded
from recipes.curate.ledger import Drop, Outcome
from recipes.curate.reading import Ids, Reader, check_sources, numbered, pieces
from recipes.curate.rows import SHARD, Numbers, Rows
from recipes.curate.work import Work

RESULT = ("stage.json", "drops.parquet", "marks.parquet", "facts.json")
"""What a finished stage leaves; the rest of its folder is what it has asked of a model."""


def clear(folder: Path) -> None:
    """Remove a stage's result, and keep what has been asked of a model."""
    for name in RESULT:
        (folder / name).unlink(missing_ok=True)


def read(work: Work) -> Outcome:
    """Read all sources into ``rows/``. Raises ``ProblemError`` for one that cannot be used."""
    sources, rows, ids = work.config.sources, Rows(work.out / "rows"), Ids(work.names)
    shutil.rmtree(rows.folder, ignore_errors=True)  # of a process that was killed while it read
    work.view.stage("read and verify")
    reader = Reader(sources, work.config.read)
    shard = count = 0
    for table in work.spread(reader, pieces(sources, os.environ.get("K15_DATA"), SHARD)):
        rows.write(shard, numbered(table, count, ids))
        shard, count = shard + 1, count + table.num_rows
        work.view.advance(table.num_rows)
    check_sources((rows.read(one, ["source", "reason", "detail", "row"]) for one in range(shard)), sources)
    drops = [
        Drop(row["number"], row["reason"], row["detail"])
        for one in range(shard)
        for row in rows.read(one, ["number", "reason", "detail"]).to_pylist()
        if row["reason"]
    ]
    facts = {"renamed": ids.renamed}
    return Outcome(drops, facts=facts, warnings=_renamed(ids.renamed))


def _renamed(count: int) -> Sequence[str]:
    if not count:
        return ()
    return (f"{count} rows have an id that another row has: they are called SOURCE/id in the set",)


@dataclass(frozen=True)
class Formats:
    """Judges the formats of a piece; sent to other processes."""

    exclude: tuple[str, ...]

    def __call__(self, piece: Sequence[tuple[int, str, str]]) -> list[Drop]:
        """Return the rows (number, statement, answer) that are left out."""
        found = ((number, excluded(said, answer, self.exclude)) for number, said, answer in piece)
        return [Drop(number, reason) for number, reason in found if reason]


def formats(work: Work, numbers: Numbers) -> Outcome:
    """Leave out formats that can be guessed or not be judged."""
    assert work.config.formats is not None
    work.view.stage("formats", len(numbers))
    pieces_ = (
        list(zip(own.tolist(), *(table.column(name).to_pylist() for name in ("statement", "answer")), strict=True))
        for own, table in work.rows.chosen(numbers, ["statement", "answer"])
    )
    drops: list[Drop] = []
    for some in work.spread(Formats(work.config.formats.exclude), pieces_):
        drops += some
        work.view.advance(min(SHARD, len(numbers)))
    return Outcome(drops)
