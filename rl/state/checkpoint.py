"""Checkpoints: written aside, checksummed, renamed; the previous one stays until the new one verifies (invariant 6).

checkpoints/000012/            state at the start of iteration 12
    state.json                 iteration, totals, sampler
    unfinished.arrow           unfinished groups with their segments
    learner/                   weights, optimiser, RNG
    manifest.json              SHA-256 and size of every file above, written last
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rollout.serial import read_groups, write_groups
from rollout.types import Group

FORMAT = 2


class CheckpointError(RuntimeError):
    """No checkpoint of the run can be read."""


@dataclass(frozen=True)
class Totals:
    """Sums over the whole run, for the summary."""

    rollouts: int = 0
    """Finished rollouts."""
    resumed: int = 0
    """Rollouts whose tokens come from two or more weight versions."""
    tokens: int = 0
    """Sampled tokens of training rollouts."""
    max_gap: float = 0.0
    """Largest |engine - learner| log-prob difference seen by a parity probe, in nats."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time by phase."""


@dataclass(frozen=True)
class RunState:
    """Everything that the loop carries from one iteration to the next, besides the learner."""

    iteration: int
    """The next iteration to run; equals the number of finished ones."""
    unfinished: tuple[Group, ...] = ()
    """Groups that continue, oldest first (the replay buffer)."""
    sampler: dict[str, Any] = field(default_factory=dict)
    """``sampler.state_dict()``."""
    totals: Totals = Totals()


def _write_state(folder: Path, state: RunState) -> None:
    row = {
        "format": FORMAT,
        "iteration": state.iteration,
        "sampler": state.sampler,
        "totals": vars(state.totals),
    }
    (folder / "state.json").write_text(json.dumps(row))
    write_groups(folder / "unfinished.arrow", state.unfinished)


def _read_state(folder: Path) -> RunState:
    row = json.loads((folder / "state.json").read_bytes())
    if row["format"] != FORMAT:
        raise CheckpointError(
            f"{folder}: checkpoint format {row['format']}, this version of k15 reads {FORMAT}; finish the run with the "
            "version that began it, or choose another --run-dir"
        )
    unfinished = tuple(read_groups(folder / "unfinished.arrow"))
    return RunState(row["iteration"], unfinished, row["sampler"], Totals(**row["totals"]))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fault(folder: Path) -> str:
    """Return why the checkpoint in ``folder`` cannot be trusted; empty when it can."""
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        return "manifest.json is missing"
    try:
        listed: dict[str, dict[str, Any]] = json.loads(manifest.read_text())
    except ValueError:
        return "manifest.json is no JSON"
    present = {str(path.relative_to(folder)) for path in _files(folder)}
    for name in sorted(set(listed) ^ present):
        return f"{name} is {'missing' if name in listed else 'not in the manifest'}"
    for name, entry in listed.items():
        if _digest(folder / name) != entry["sha256"]:
            return f"{name} does not match its checksum"
    return ""


def save(folder: Path, state: RunState, save_learner: Callable[[Path], None], keep: int) -> Path:
    """Write the checkpoint of ``state``; on any error the older ones are untouched.

    ``save_learner(path)`` writes the learner's files into an existing empty directory. Returns the checkpoint's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{state.iteration:06d}"
    aside = folder / f".{target.name}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        (aside / "learner").mkdir(parents=True)
        save_learner(aside / "learner")
        _write_state(aside, state)
        entries = {}
        for path in _files(aside):
            _sync(path)
            entries[str(path.relative_to(aside))] = {"sha256": _digest(path), "bytes": path.stat().st_size}
        (aside / "manifest.json").write_text(json.dumps(entries, indent=1))
        _sync(aside / "manifest.json")
        if problem := fault(aside):
            raise CheckpointError(f"{aside}: {problem}; is the disk failing?")
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    replaced = folder / f".{target.name}.old"
    shutil.rmtree(replaced, ignore_errors=True)
    if target.exists():
        target.rename(replaced)
    aside.rename(target)
    _sync(folder)
    shutil.rmtree(replaced, ignore_errors=True)
    for old in available(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def available(folder: Path) -> list[Path]:
    """Return the checkpoints by name, oldest first; not verified."""
    return sorted(path for path in folder.glob("*") if path.is_dir() and path.name.isdigit())


def latest(folder: Path, warn: Callable[[str], None]) -> tuple[RunState, Path] | None:
    """Return the newest checkpoint that verifies, and its learner directory; ``None`` when there is none at all.

    Each corrupt one is passed over with a warning. Raises ``CheckpointError`` when there are some and none verifies.
    """
    candidates = available(folder)
    for path in reversed(candidates):
        if problem := fault(path):
            warn(f"checkpoint {path} is corrupt ({problem}); falling back to the previous one")
            continue
        return _read_state(path), path / "learner"
    if candidates:
        raise CheckpointError(
            f"{folder}: none of the {len(candidates)} checkpoints verifies; start in a new run directory"
        )
    return None
