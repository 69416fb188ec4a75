"""Checkpoints: written aside, checksummed, renamed; the previous one stays until the new one is whole (invariant 6).

checkpoints/000012/            state at the start of iteration 12
    state.json                 iteration, totals, sampler
    unfinished.arrow           unfinished groups with their segments
    moments.npz                of all responses so far, in runs that watch their diversity
    learner/                   weights, optimiser, RNG
    manifest.json              SHA-256 and size of every file above, written last
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from rl.stop import Interrupted
from rollout.embedding.whitening import Moments
from rollout.serial import read_groups, write_groups
from rollout.timeline import SAVER, Switch
from rollout.types import Group

FORMAT = 2
MANIFEST = "manifest.json"
LEARNER = "learner"
MOMENTS = "moments.npz"


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
    moments: Moments | None = None
    """Of the vectors of all responses so far (``rl.diversity``); ``None`` where nobody watches."""


def _write_state(folder: Path, state: RunState) -> None:
    row = {
        "format": FORMAT,
        "iteration": state.iteration,
        "sampler": state.sampler,
        "totals": vars(state.totals),
    }
    (folder / "state.json").write_text(json.dumps(row))
    write_groups(folder / "unfinished.arrow", state.unfinished)
    if (known := state.moments) is not None:
        np.savez(folder / MOMENTS, count=known.count, mean=known.mean, scatter=known.scatter)


def _read_state(folder: Path) -> RunState:
    row = json.loads((folder / "state.json").read_bytes())
    if row["format"] != FORMAT:
        raise CheckpointError(
            f"{folder}: checkpoint format {row['format']}, this version of k15 reads {FORMAT}; finish the run with the "
            "version that began it, or choose another --run-dir"
        )
    unfinished = tuple(read_groups(folder / "unfinished.arrow"))
    moments = _read_moments(folder / MOMENTS) if (folder / MOMENTS).exists() else None
    return RunState(row["iteration"], unfinished, row["sampler"], Totals(**row["totals"]), moments)


def _read_moments(path: Path) -> Moments:
    with np.load(path, allow_pickle=False) as kept:
        return Moments(int(kept["count"]), kept["mean"], kept["scatter"])


@dataclass(frozen=True)
class Sum:
    """What a file holds."""

    sha256: str
    """Hexadecimal."""
    bytes: int


class Saves(Protocol):
    """The learner, as a checkpoint is made of it."""

    def save(self, folder: Path) -> None:
        """Write weights, optimiser and random states of now into an existing directory; some of it perhaps later."""

    def saving(self) -> bool:
        """Return whether the last save is still being written."""

    def saved(self) -> Mapping[str, Sum]:
        """Return once all of the last save is written, or raise what prevented it.

        The result: sums by file, of those that were summed on their way to the disk, and read back from it.
        """


def summed(paths: Sequence[Path]) -> list[Sum]:
    """Return the sums of files, read side by side: hashing leaves Python's lock alone."""
    with ThreadPoolExecutor(min(len(paths), len(os.sched_getaffinity(0))) or 1) as threads:
        return list(threads.map(_sum, paths))


def _sum(path: Path) -> Sum:
    with path.open("rb") as file:
        return Sum(hashlib.file_digest(file, "sha256").hexdigest(), file.tell())


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fault(folder: Path) -> str:
    """Return why the checkpoint in ``folder`` cannot be trusted; empty when it can. Every byte of it is read."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return f"{MANIFEST} is missing"
    try:
        listed: dict[str, dict[str, Any]] = json.loads(manifest.read_text())
    except ValueError:
        return f"{MANIFEST} is no JSON"
    present = {str(path.relative_to(folder)) for path in _files(folder)}
    for name in sorted(set(listed) ^ present):
        return f"{name} is {'missing' if name in listed else 'not in the manifest'}"
    for (name, entry), found in zip(listed.items(), summed([folder / name for name in listed]), strict=True):
        if found.sha256 != entry["sha256"]:
            return f"{name} does not match its checksum"
    return ""


@dataclass(frozen=True)
class Pending:
    """A checkpoint that the learner may still be writing, aside; until it is finished, the one before it counts."""

    target: Path
    """The checkpoint's path when it is finished."""
    aside: Path
    """Where it is written."""

    def finish(self, saved: Callable[[], Mapping[str, Sum]], keep: int) -> Path:
        """Wait for the learner's files, write the manifest and put the checkpoint in place; return its path.

        ``saved``: see ``Saves``. All but the newest ``keep`` checkpoints are removed then. On any error the older ones
        are untouched.
        """
        folder = self.target.parent
        try:
            _write_manifest(self.aside, {f"{LEARNER}/{name}": each for name, each in saved().items()})
        except BaseException:
            shutil.rmtree(self.aside, ignore_errors=True)
            raise
        replaced = folder / f".{self.target.name}.old"
        shutil.rmtree(replaced, ignore_errors=True)
        if self.target.exists():
            self.target.rename(replaced)
        self.aside.rename(self.target)
        _sync(folder)
        shutil.rmtree(replaced, ignore_errors=True)
        for old in available(folder)[:-keep]:
            shutil.rmtree(old)
        return self.target


def begin(folder: Path, state: RunState, save_learner: Callable[[Path], object]) -> Pending:
    """Begin the checkpoint of ``state``, beside those in ``folder``; what an earlier process left unfinished goes.

    ``save_learner(path)`` starts to write the learner's files into an existing empty directory.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    target = folder / f"{state.iteration:06d}"
    aside = folder / f".{target.name}.tmp"
    try:
        (aside / LEARNER).mkdir(parents=True)
        _write_state(aside, state)
        save_learner(aside / LEARNER)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return Pending(target, aside)


def _write_manifest(folder: Path, known: Mapping[str, Sum]) -> None:
    """List every file, with its sum as the learner has it in ``known``, or else as it reads: each is read once.

    Reading a file once more, right after it was summed, would tell nothing: the system answers from memory. What the
    disk does to it later is noticed when the checkpoint is to be used.
    """
    found = {str(path.relative_to(folder)): path for path in _files(folder)}
    for path in found.values():
        _sync(path)
    for name, each in known.items():
        size = found[name].stat().st_size if name in found else None
        if size != each.bytes:
            is_so = "is not to be found" if size is None else f"has {size} bytes instead of {each.bytes}"
            raise CheckpointError(
                f"{folder / name} {is_so} after the learner has written it; do all machines of the run see "
                "the same disk?"
            )
    unknown = [name for name in found if name not in known]
    sums = dict(zip(unknown, summed([found[name] for name in unknown]), strict=True)) | dict(known)
    (folder / MANIFEST).write_text(json.dumps({name: asdict(sums[name]) for name in found}, indent=1))
    _sync(folder / MANIFEST)


class Writer:
    """Writes the checkpoints of a run, one after the other, while the learner goes on.

    At the end of its block, also when that fails or is interrupted, the last one is finished.
    """

    def __init__(
        self, folder: Path, learner: Saves, keep: int, warn: Callable[[str], None], since: Callable[[int], None]
    ) -> None:
        """``since`` is told the iteration of the oldest checkpoint kept, whenever that may have changed."""
        self.folder, self.learner, self.keep, self.warn, self.since = folder, learner, keep, warn, since
        self.pending: Pending | None = None
        """The checkpoint that is not finished."""
        self._saving = Switch(SAVER, "save")

    def begin(self, state: RunState) -> None:
        """Begin a checkpoint, when the one before it is finished; finish it, too, if the learner has written it."""
        self.finish()
        self._saving.turn(True)
        self.pending = begin(self.folder, state, self.learner.save)
        self.settle()

    def settle(self) -> None:
        """Finish the checkpoint that was begun, if that takes no waiting for the learner."""
        if self.pending is not None and not self.learner.saving():
            self.finish()

    def finish(self) -> None:
        """Finish the checkpoint that was begun, if there is one."""
        pending, self.pending = self.pending, None
        try:
            if pending is not None:
                pending.finish(self.learner.saved, self.keep)
                self.since(int(available(self.folder)[0].name))
        finally:
            self._saving.turn(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None:
            self.finish()
        elif isinstance(error, (Exception, Interrupted)):
            try:
                self.finish()
            except Exception as another:  # noqa: BLE001 - told; the first one is why the run ends
                self.warn(f"the checkpoint that was being written is lost: {another}")


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
        return _read_state(path), path / LEARNER
    if candidates:
        raise CheckpointError(
            f"{folder}: none of the {len(candidates)} checkpoints verifies; start in a new run directory"
        )
    return None
