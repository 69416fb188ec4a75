"""What comes out: the set for ``k15 train``, and every row's fate. Streamed, and whole or not there at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recipes.curate.ledger import drops_of, marks_of
from recipes.curate.rows import Numbers, Rows
from rollout.files import replacing
from rollout.strict_json import dumps

SET = "curated"
FATES = "fates.jsonl"
KEPT = "kept"
DIFFICULTY = "source_difficulty"
"""Where the source's own difficulty goes when a measured one takes its place."""


def write_set(out: Path, rows: Rows, kept: Numbers, names: Sequence[str], marks: Mapping[str, Any]) -> list[Path]:
    """Write the rows ``kept`` as JSON Lines and return the files: one, or one for each verifier.

    A row has all fields of its source, its id in the set, and the marks of the stages: name -> a value for each of
    ``kept``. A measured pass rate is its difficulty, too: 1 - pass rate. Raises ``OSError``.
    """
    verifiers = sorted(set(rows.texts(kept, "verifier").to_pylist()))
    files = [out / (f"{SET}.jsonl" if len(verifiers) == 1 else f"{SET}-{name or 'none'}.jsonl") for name in verifiers]
    for old in set(out.glob(f"{SET}*.jsonl")) - set(files):
        old.unlink()
    for verifier, path in zip(verifiers, files, strict=True):
        with replacing(path) as file:
            for row in _rows(rows, kept, names, marks, verifier):
                file.write(dumps(row, ensure_ascii=False) + "\n")
    return files


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
    known = {key: value for key, value in marks.items() if value is not None}
    if "pass_rate" in known:
        known["difficulty"] = round(1 - known["pass_rate"], 6)
        if row.get("difficulty") is not None:
            known[DIFFICULTY] = row["difficulty"]
    return {**row, "id": name, "source": row.get("source") or source, "domain": domain, **known}


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


def write_fates(out: Path, rows: Rows, names: Sequence[str], stages: Sequence[tuple[str, Path]]) -> None:
    """Write one line for each row of the sources: ``fate`` is ``kept``, or the stage that dropped it. Raises
    ``OSError``.
    """
    dropped: dict[int, tuple[str, Mapping[str, Any]]] = {}
    for name, folder in stages:
        dropped |= {row["number"]: (name, row) for row in drops_of(folder).to_pylist()}
    ids = rows.column("id")
    with replacing(out / FATES) as file:
        for shard in range(rows.shards):
            for row in rows.read(shard, ["number", "source", "place", "id"]).to_pylist():
                fate: dict[str, Any] = {"fate": KEPT}
                if row["number"] in dropped:
                    stage, drop = dropped[row["number"]]
                    fate = {"fate": stage, "reason": drop["reason"]}
                    fate |= {"detail": drop["detail"]} if drop["detail"] else {}
                    fate |= {} if drop["other"] is None else {"like": ids[drop["other"]].as_py()}
                told = {"id": row["id"], "source": names[row["source"]], "place": row["place"], **fate}
                file.write(dumps(told, ensure_ascii=False) + "\n")
