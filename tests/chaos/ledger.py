"""What a run has on disk: at a moment, as a ledger to hold it to; and at its end, as the record that is audited."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from rl.record.log import read_metrics
from rl.state import checkpoint
from rl.state.journal import read_stream
from rl.state.run_dir import RunDir
from rollout.serial import read_groups
from rollout.types import Author

Token = tuple[int, int, float | None]
"""Weight version, id, and log-prob under the sampler; ``None`` where the environment wrote."""


@dataclass(frozen=True)
class Ledger:
    """The tokens that a run had recorded by a moment."""

    moment: str
    journals: Mapping[int, Mapping[str, Sequence[Token]]]
    """By iteration, then by rollout, in the order drawn."""

    def tokens(self) -> dict[str, list[Token]]:
        """Return what each rollout was given, in the order of the journals: a stretch of its response."""
        found: dict[str, list[Token]] = {}
        for _, journal in sorted(self.journals.items()):
            for rollout, drawn in journal.items():
                found.setdefault(rollout, []).extend(drawn)
        return found


@dataclass(frozen=True)
class Record:
    """All that a finished run says of itself."""

    rows: Sequence[Mapping[str, Any]]
    """``metrics.jsonl``."""
    rollouts: Sequence[Mapping[str, Any]]
    """Rows of the rollout files."""
    files: Sequence[int]
    """Iterations that have such a file."""
    unfinished: Mapping[str, Sequence[Token]]
    """Tokens of rollouts that the newest checkpoint goes on with."""
    summary: Mapping[str, Any]
    later: Mapping[str, Sequence[Token]] = field(default_factory=dict)
    """What came in behind it: the journal of an iteration that the run would have, were it prolonged."""
    broken: Sequence[str] = ()
    """Files that are half written, or that should not be there."""


def take(run_dir: Path, folder: Path, moment: str) -> None:
    """Copy what ``read_ledger`` needs; other threads of the run may be writing meanwhile."""
    folder.mkdir(parents=True)
    (folder / "moment").write_text(moment)
    for path in (run_dir / "journal").glob("*.arrow"):
        with contextlib.suppress(FileNotFoundError):  # dropped between two looks
            shutil.copy(path, folder)


def read_ledger(folder: Path) -> Ledger:
    """Read what ``take`` has copied."""
    journals = {int(path.stem): journalled(path.read_bytes()) for path in sorted(folder.glob("*.arrow"))}
    return Ledger((folder / "moment").read_text(), journals)


def journalled(data: bytes) -> dict[str, list[Token]]:
    """Return the tokens in a journal, by rollout."""
    found: dict[str, list[Token]] = {}
    for delta in read_stream(data)[0]:
        if len(delta.token_ids):
            logprobs = delta.logprobs if delta.by is Author.POLICY else None
            found.setdefault(delta.key, []).extend(tokens(delta.version, delta.token_ids, logprobs))
    return found


def tokens(version: int, ids: Iterable[int], logprobs: Iterable[float] | None) -> list[Token]:
    """Return the tokens of one piece."""
    named = [int(token) for token in ids]
    values = [None] * len(named) if logprobs is None else [exact(value) for value in logprobs]
    return [(version, token, value) for token, value in zip(named, values, strict=True)]


def exact(value: float | None) -> float | None:
    """Return a log-prob as it is stored, in 32 bits; NaN, which is equal to nothing, as ``None``."""
    return None if value is None or np.isnan(value) else float(np.float32(value))


def of_row(row: Mapping[str, Any]) -> list[Token]:
    """Return the tokens of a stored rollout, as far as all three columns go."""
    versions = np.repeat(row["segment_versions"], row["segment_lengths"]).tolist()
    return [
        (version, *rest)
        for version, *rest in zip(versions, row["token_ids"], map(exact, row["logprobs"]), strict=False)
    ]


def read_record(root: Path) -> Record:
    """Read a finished run."""
    directory = RunDir(root)
    files = sorted(directory.rollouts.glob("[0-9]*.parquet"))
    kept = checkpoint.available(directory.checkpoints)
    groups = read_groups(kept[-1] / "unfinished.arrow") if kept else ()
    unfinished = {
        rollout.id: [
            token
            for part in rollout.segments
            for token in tokens(part.version, part.token_ids, part.logprobs if part.sampled else None)
        ]
        for group in groups
        for rollout in group.rollouts
    }
    journal = directory.journal / f"{kept[-1].name}.arrow" if kept else None
    return Record(
        rows=read_metrics(root),
        rollouts=[row for path in files for row in pq.read_table(path).to_pylist()],
        files=[int(path.stem) for path in files],
        unfinished=unfinished,
        summary=json.loads(directory.summary.read_text()) if directory.summary.exists() else {},
        later=journalled(journal.read_bytes()) if journal and journal.exists() else {},
        broken=broken(root),
    )


def broken(root: Path) -> list[str]:
    """Return what of a run's files is not whole, or was left aside by a process that has ended."""
    found = [
        f"{path.name}: {why}" for path in checkpoint.available(root / "checkpoints") if (why := checkpoint.fault(path))
    ]
    found += [f"{path.relative_to(root)}: left behind" for path in root.rglob(".*.tmp")]
    found += [f"{name}: left behind" for name in (".rehearsal",) if (root / name).exists()]
    return found + [
        f"{name}: missing" for name in ("report.html", "model/model.safetensors") if not (root / name).exists()
    ]
