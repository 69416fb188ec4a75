"""What every stage works with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recipes.curate.config import CurateConfig
from recipes.curate.rows import Numbers, Rows
from recipes.curate.showing import Showing
from recipes.curate.spread import Spread
from recipes.curate.vectors import Embedded
from rollout.problems.rows import problem_of
from rollout.types import Problem

if TYPE_CHECKING:
    from recipes.curate.asking import Asker
    from recipes.curate.evaluation_sets import EvaluationSet


@dataclass
class Work:
    """The folder, its rows, and what is opened once for all stages."""

    config: CurateConfig
    out: Path
    spread: Spread[Any, Any]
    encoding: Spread[Any, Any]
    """Over processes that each load the encoder."""
    view: Showing
    names: tuple[str, ...]
    """Of the sources."""
    against: Sequence[EvaluationSet]
    asker: Asker | None
    """Asks the model; ``None`` without one."""
    identity: str = ""
    """Changes when the sources do, and so any row."""
    done: list[str] = field(default_factory=list)
    """Stages that rows have come through, by name."""
    pool: Numbers = field(default_factory=lambda: np.empty(0, np.int64))
    """Rows that are embedded: those that come to the first stage that needs vectors."""

    @cached_property
    def rows(self) -> Rows:
        """All rows; only once they have been read."""
        return Rows(self.out / "rows")

    @cached_property
    def embedded(self) -> Embedded:
        """The vectors of the pool, made when they are first asked for."""
        config = self.config
        found = Embedded(
            self.out / "vectors", self.rows, self.pool, config.encoder, config.whitening, config.seed, self.identity
        )
        found.make(self.encoding, self.view)
        return found

    def problems(self, numbers: Numbers) -> list[Problem]:
        """Return rows as problems, as whoever trains on them will read them, with the ids that they have here."""
        found = []
        for _, table in self.rows.chosen(numbers, ["id", "source", "verifier", "row"]):
            for one in table.to_pylist():
                row = {**json.loads(one["row"]), "id": one["id"]}
                found.append(problem_of(row, one["verifier"], one["id"], self.names[one["source"]]))
        return found
