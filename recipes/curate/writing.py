"""What comes out: the set for ``k15 train``, and every row's fate. Streamed, and whole or not there at all."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from recipes.curate.ledger import Fates, marks_of
from recipes.curate.rows import Numbers, Rows
from rewards.verify import VERIFIERS
from rollout.files import replacing
from rollout.problems.config import NO_RULE
from rollout.strict_json import dumps

SET = "curated"
FATES = "fates.jsonl"
KEPT = "kept"
SOURCE = "source_"
"""Before the name of a source's own difficulty or domain, when another takes its place."""


@dataclass(frozen=True)
class Written:
    """A file of the set."""

    path: Path
    verifier: str
    """Of all of its problems; empty: none."""

    @property
    def source(self) -> str:
        """What ``k15 train --problems.train`` takes: all of the file, whatever part of another file a recipe takes."""
        keys = {
            "kind": "jsonl",
            "path": str(self.path),
            "verifier": self.verifier or NO_RULE,
            "where": {},
            "skip": 0,
            "limit": None,
            "max_prompt_chars": None,
        }
        return str(
            yaml.safe_dump(keys, default_flow_style=True, sort_keys=False, width=math.inf, allow_unicode=True)
        ).strip()


def write_set(out: Path, rows: Rows, kept: Numbers, names: Sequence[str], marks: Mapping[str, Any]) -> list[Written]:
    """Write the rows ``kept`` as JSON Lines and return the files: one, or one for each verifier. Those of an earlier
    set are removed.

    A row has all fields of its source, its id in the set, and the marks of the stages: name -> a value for each of
    ``kept``. A measured pass rate is its difficulty, too: 1 - pass rate. Raises ``OSError``.
    """
    verifiers = sorted(set(rows.texts(kept, "verifier").to_pylist()))
    files = [out / (f"{SET}.jsonl" if len(verifiers) == 1 else f"{SET}-{name or 'none'}.jsonl") for name in verifiers]
    for old in {*set_files(out)} - {*files}:
        old.unlink(missing_ok=True)
    for verifier, path in zip(verifiers, files, strict=True):
        with replacing(path) as file:
            for row in _rows(rows, kept, names, marks, verifier):
                file.write(dumps(row, ensure_ascii=False) + "\n")
    return [Written(path, verifier) for verifier, path in zip(verifiers, files, strict=True)]


def set_files(out: Path) -> list[Path]:
    """Return the files that a set may have in a folder: one, or one for each verifier."""
    return [out / f"{SET}.jsonl", *(out / f"{SET}-{name}.jsonl" for name in (*VERIFIERS, NO_RULE))]


def _rows(
    rows: Rows, kept: Numbers, names: Sequence[str], marks: Mapping[str, Any], verifier: str
) -> Iterator[dict[str, Any]]:
    for numbers, table in rows.chosen(kept, ["id", "source", "verifier", "domain", "row"]):
        for number, one in zip(np.searchsorted(kept, numbers).tolist(), table.to_pylist(), strict=True):
            if one["verifier"] == verifier:
                own = {name: values[number] for name, values in marks.items()}
                yield row_of(json.loads(one["row"]), one["id"], names[one["source"]], one["domain"], own)


def row_of(row: Mapping[str, Any], name: str, source: str, domain: str, marks: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the set: the source's fields, and what is known of it now."""
    known = {"domain": domain} | {key: value for key, value in marks.items() if value is not None}
    if "pass_rate" in known:
        known["difficulty"] = round(1 - known["pass_rate"], 6)
    for field in known.keys() & {"difficulty", "domain"}:
        if row.get(field) not in (None, known[field]) and SOURCE + field not in row:  # of a set curated again the first
            known[SOURCE + field] = row[field]
    return {**row, "id": name, "source": row.get("source") or source, **known}


def marks_for(kept: Numbers, stages: Sequence[Path]) -> dict[str, list[Any]]:
    """Return what finished stages have noted, by name, for each row of ``kept``; ``None`` where one has nothing."""
    found: dict[str, list[Any]] = {}
    for folder in stages:
        table = marks_of(folder)
        numbers = table.column("number").to_numpy()
        if not len(numbers):
            continue
        at = np.minimum(np.searchsorted(numbers, kept), len(numbers) - 1)
        has = numbers[at] == kept
        for name in table.column_names[1:]:
            taken = table.column(name).take(at).to_pylist()
            found[name] = [value if own else None for value, own in zip(taken, has, strict=True)]
    return found


def write_fates(out: Path, rows: Rows, names: Sequence[str], fates: Fates) -> None:
    """Write one line for each row of the sources: ``fate`` is ``kept``, or the stage that dropped it. Raises
    ``OSError``.
    """
    ids = rows.column("id")
    with replacing(out / FATES) as file:
        for shard in range(rows.shards):
            table = rows.read(shard, ["number", "source", "place", "id"])
            own = fates.of(table.column("number").to_numpy())
            for row, lost in zip(table.to_pylist(), own, strict=True):
                told = {"id": row["id"], "source": names[row["source"]], "place": row["place"]}
                if lost is None:
                    told |= {"fate": KEPT}
                else:
                    stage, drop = lost
                    told |= {"fate": stage, "reason": drop.reason}
                    told |= {"detail": drop.detail} if drop.detail else {}
                    told |= {} if drop.other is None else {"like": ids[drop.other].as_py()}
                file.write(dumps(told, ensure_ascii=False) + "\n")
