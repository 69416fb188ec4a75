"""``k15 curate``: the stages in order, each taking what the one before left.

sources -> read -> formats -> duplicates -> neighbours -> contamination -> guess -> difficulty -> coverage -> the set

OUT/
  rows/              all rows of all sources, numbered
  vectors/           their embeddings, whitened
  STAGE/             stage.json, drops.parquet, marks.parquet; what was asked of the model
  curated.jsonl      the set, for ``k15 train``; with several verifiers one file each
  fates.jsonl        a line for each row of the sources: kept, or what dropped it and why
  summary.json, report.html

A stage whose folder says that it is finished, with the same keys and the same rows, is not done again. One whose keys
have changed is, and so is all behind it; but no response that is on record is sampled twice.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from recipes.curate import stages
from recipes.curate.config import CurateConfig
from recipes.curate.ledger import Outcome, drops_of, without, write_outcome
from recipes.curate.rows import Numbers
from recipes.curate.work import Work
from recipes.run.workspace import Workspace, differences
from rollout.config import Config
from rollout.files import replace_file

Act = Callable[[Work, Numbers], Outcome]


@dataclass(frozen=True)
class Stage:
    """A stage of the funnel."""

    name: str
    """Its folder, and what a row's fate says."""
    title: str
    keys: Callable[[CurateConfig], Mapping[str, Config | None]]
    """What it depends on; one that is ``None`` switches it off."""
    act: Act
    asks: bool = False
    """Whether it asks the model."""
    compares: bool = False
    """Whether it compares with evaluation sets."""
    needs_vectors: bool = False


STAGES = (
    Stage("formats", "Format exclusion", lambda c: {"formats": c.formats}, stages.formats),
    Stage("duplicates", "Exact and near duplicates", lambda c: {"duplicates": c.duplicates}, stages.duplicates),
    Stage(
        "neighbours",
        "Duplicates by embedding, and templates",
        lambda c: {"duplicates": c.duplicates, "encoder": c.encoder, "whitening": c.whitening},
        stages.neighbours,
        needs_vectors=True,
    ),
    Stage(
        "contamination",
        "Decontamination",
        lambda c: {"contamination": c.contamination, "encoder": c.encoder, "whitening": c.whitening},
        stages.contamination,
        compares=True,
        needs_vectors=True,
    ),
    Stage("guess", "Guess filter", lambda c: {"guess": c.guess}, stages.guess, asks=True),
    Stage("difficulty", "Difficulty", lambda c: {"difficulty": c.difficulty}, stages.difficulty, asks=True),
    Stage(
        "coverage",
        "Coverage",
        lambda c: {"coverage": c.coverage, "encoder": c.encoder, "whitening": c.whitening},
        stages.coverage,
        needs_vectors=True,
    ),
)
EMBEDDED = frozenset(stage.name for stage in STAGES if stage.needs_vectors)
TITLES = {"read": "Read and verify"} | {stage.name: stage.title for stage in STAGES}


class Nothing(ValueError):
    """No row is left; one line: which stage dropped the last ones."""


@dataclass(frozen=True)
class Passed:
    """A stage that rows have come through."""

    name: str
    entered: int
    reasons: Mapping[str, int]
    seconds: float
    """That the stage took, in whichever process."""
    facts: Mapping[str, Any]
    warnings: Sequence[str] = ()
    skipped: str = ""
    """Why it was left out."""

    @property
    def left(self) -> int:
        """Rows that go on."""
        return self.entered - sum(self.reasons.values())


class Curation:
    """The work of one process in one output folder."""

    def __init__(self, work: Work, told: Mapping[str, Any]) -> None:
        """``told``: what the sources are, evaluation sets and the model, by fingerprints."""
        self.work = work
        self.space = Workspace(work.out)
        self.told = told
        self.passed: list[Passed] = []

    def run(self) -> Numbers:
        """Carry the stages out, or what is left of them, and return the rows that are kept.

        Raises ``Nothing`` when none is, with ``passed`` as far as it went.
        """
        numbers = self._read()
        self.work.identity = _digest(self.told["sources"])
        chain = _digest([self.work.identity, self.work.config.read.model_dump(mode="json")])
        for stage in STAGES:
            if stage.name == "neighbours":
                self.work.pool = numbers
            keys = stage.keys(self.work.config)
            if why := self._off(stage, keys):
                self.passed.append(Passed(stage.name, len(numbers), {}, 0.0, {}, skipped=why))
                continue
            inputs: dict[str, Any] = {"rows": chain}
            # The others draw nothing.
            inputs |= {"seed": self.work.config.seed} if stage.needs_vectors or stage.asks else {}
            inputs |= {name: key.model_dump(mode="json") for name, key in keys.items() if key is not None}
            if stage.asks and self.work.asker is not None:
                # A longer context lets longer prompts be asked.
                inputs |= {"model": self.told["model"], "context": self.work.asker.context}
            inputs |= {"against": self.told["against"]} if stage.compares else {}
            numbers = self._pass(stage.name, inputs, partial(stage.act, self.work, numbers), numbers)
            chain = _digest([chain, inputs])
        return numbers

    def _off(self, stage: Stage, keys: Mapping[str, Config | None]) -> str:
        """Return why a stage is left out, if it is."""
        if any(key is None for key in keys.values()):
            return "switched off"
        if stage.asks and self.work.asker is None:
            return "without --model"
        if stage.compares and not self.work.against:
            return "without --against"
        return ""

    def _read(self) -> Numbers:
        inputs = {
            "sources": self.told["sources"],
            "read": self.work.config.read.model_dump(mode="json"),
        }
        return self._pass("read", inputs, lambda: stages.read(self.work), None)

    def _pass(
        self, name: str, inputs: Mapping[str, Any], act: Callable[[], Outcome], numbers: Numbers | None
    ) -> Numbers:
        """Return the rows that a stage leaves of ``numbers``; of all rows for the first one."""
        folder = self._begin(name, inputs)
        earlier = self.space.note(name) is not None
        if not earlier:
            began = time.monotonic()
            outcome = act()
            self.work.view.close()
            write_outcome(folder, outcome)
            facts = {
                "seconds": round(time.monotonic() - began, 1),
                "facts": outcome.facts,
                "warnings": list(outcome.warnings),
            }
            replace_file(folder / "facts.json", (json.dumps(facts, indent=1) + "\n").encode())
            self.space.finish(name, f"{len(outcome.drops)} rows dropped")
        if numbers is None:
            numbers = np.arange(self.work.rows.count, dtype=np.int64)
        drops = drops_of(folder)
        told = json.loads((folder / "facts.json").read_bytes())
        reasons = dict(Counter(drops.column("reason").to_pylist()).most_common())
        passed = Passed(name, len(numbers), reasons, told["seconds"], told["facts"], told["warnings"])
        self.passed.append(passed)
        self.work.done.append(name)
        self._say(line(passed) + "  (done before)" * earlier)
        for warning in passed.warnings:
            self._say(f"warning: {warning}")
        left = without(numbers, drops)
        if not len(left):
            raise Nothing(
                f"no row is left: {TITLES[name].lower()} dropped the last {len(drops)} "
                f"({', '.join(f'{count} {reason}' for reason, count in reasons.items())}); {self.work.out}/report.html "
                "shows them"
            )
        return left

    def _say(self, text: str) -> None:
        self.work.view.print(f"k15: {text}")

    def _begin(self, name: str, inputs: Mapping[str, Any]) -> Path:
        """Return the folder of a stage, emptied of a result that other inputs have made."""
        new = json.loads(json.dumps(inputs, default=str))
        file = self.space.folder(name) / "stage.json"
        if file.exists() and (changed := differences(json.loads(file.read_bytes())["inputs"], new)):
            keys = [one for one in changed if not one.startswith(("rows:", "sources:"))]
            if any(one.startswith("sources:") for one in changed):
                keys.insert(0, "the sources or their files are others")
            self._say(f"{name}: made again ({'; '.join(keys[:3]) or 'other rows come to it'})")
            stages.clear(self.space.folder(name))
            if name == "read":
                shutil.rmtree(self.work.out / "rows", ignore_errors=True)
        return self.space.begin(name, dict(inputs))


def line(passed: Passed) -> str:
    """Return what a stage did, for the terminal."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in passed.reasons.items())
    dropped = f"  dropped {reasons}" if reasons else "  dropped none"
    return f"{passed.name:<14}{passed.entered:>10,} ->{passed.left:>10,}{dropped}"


def _digest(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
