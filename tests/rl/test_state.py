"""Journal and checkpoints: nothing finished is ever lost (invariants 4 and 6)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from factories import group, problem, rollout
from full_disk import Filling
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.score import Score
from rl.state import checkpoint
from rl.state.checkpoint import CheckpointError, RunState, Sum, Totals, Writer
from rl.state.journal import Journal, JournalError
from rl.stop import Interrupted
from rollout.engine import Delta
from rollout.serial import (
    deltas_from_batch,
    deltas_to_batch,
    groups_from_table,
    groups_to_table,
    problem_from_text,
    problem_text,
)
from rollout.types import Author, Prompt, Rollout, Segment, StopReason


def state(iteration: int) -> RunState:
    unfinished = group("000003.0001", [rollout("a/0", [(1, 3), (2, 2)], stop=None), rollout("a/1")], born=1)
    totals = Totals(rollouts=7, tokens=99, max_gap=1e-6, seconds={"train": 1.5})
    return RunState(iteration, (unfinished,), {"rng": [1, 2], "success": {"p0": 0.25}}, totals)


def save(folder: Path, state: RunState, save_learner: Callable[[Path], object], keep: int) -> Path:
    return checkpoint.begin(folder, state, save_learner).finish(dict, keep)


def save_learner(folder: Path) -> None:
    (folder / "model.bin").write_bytes(b"weights")


@settings(deadline=None)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(0, 2**31 - 1), st.integers(0, 3))
def test_groups_and_progress_survive_arrow_to_the_last_bit(logprob: float, token: int, empty: int) -> None:
    fed = Segment(2, (token, 3), by=Author.ENVIRONMENT)
    parts = (Segment(1, (token,), (logprob,)), fed, Segment(2, (4,), (-1.0,)))
    judged = Rollout("g/2", Prompt((1, 2)), parts, StopReason.EOS, Score.wrong("no", "3", answer=0.0), 2, judged=True)
    blank = [Rollout(f"g/{3 + j}", Prompt((7,))) for j in range(empty)]
    first = group("g", [rollout("g/0", score=Score.right("7", answer=1.0)), rollout("g/1", stop=None), judged, *blank])
    original = [first, group("h", [rollout("h/0", stop=None)], born=3, index=1)]
    assert groups_from_table(groups_to_table(original)) == original
    deltas = [
        Delta("g/0", (token,), (logprob,), 3, True, StopReason.EOS),
        Delta("g/1", (), (), 3, True, error="died"),
        Delta("g/2", (5, token), (), 3, by=Author.ENVIRONMENT),
        Delta("g/2", (), (), 3, True, StopReason.LENGTH, score=Score.ungradable("hung")),
    ]
    assert deltas_from_batch(deltas_to_batch(deltas)) == deltas


def test_problems_of_checkpoints_from_before_they_had_pass_rates() -> None:
    rated = replace(problem(3), pass_rate=0.25)
    assert problem_from_text(problem_text(rated)) == rated
    older = {key: value for key, value in json.loads(problem_text(rated)).items() if key != "pass_rate"}
    assert problem_from_text(json.dumps(older)) == problem(3)


def test_a_checkpoint_comes_back_whole(tmp_path: Path) -> None:
    save(tmp_path, state(4), save_learner, keep=2)
    found = checkpoint.latest(tmp_path, pytest.fail)
    assert found is not None
    assert found[0] == state(4)
    assert (found[1] / "model.bin").read_bytes() == b"weights"


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete", "add", "no-manifest", "bad-manifest"])
def test_a_corrupt_checkpoint_is_passed_over_and_said(tmp_path: Path, harm: str) -> None:
    save(tmp_path, state(4), save_learner, keep=3)
    newest = save(tmp_path, state(5), save_learner, keep=3)
    victim = newest / "learner" / "model.bin"
    match harm:
        case "flip":
            victim.write_bytes(b"weighTs")
        case "truncate":
            victim.write_bytes(b"weig")
        case "delete":
            victim.unlink()
        case "add":
            (newest / "learner" / "extra.bin").write_bytes(b"x")
        case "no-manifest":
            (newest / "manifest.json").unlink()
        case "bad-manifest":
            (newest / "manifest.json").write_text("{")
    warnings: list[str] = []
    found = checkpoint.latest(tmp_path, warnings.append)
    assert found is not None
    assert found[0].iteration == 4
    assert len(warnings) == 1
    assert "000005" in warnings[0]
    assert "falling back" in warnings[0]


def test_when_no_checkpoint_verifies_it_is_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    path = save(tmp_path, state(4), save_learner, keep=2)
    (path / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="none of the 1"):
        checkpoint.latest(tmp_path, lambda _: None)
    assert checkpoint.latest(tmp_path / "other", pytest.fail) is None


def test_a_failing_save_leaves_the_old_checkpoints(tmp_path: Path) -> None:
    save(tmp_path, state(4), save_learner, keep=2)

    def disk_full(folder: Path) -> None:
        (folder / "model.bin").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, state(5), disk_full, keep=2)
    assert [path.name for path in checkpoint.available(tmp_path)] == ["000004"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000004"]


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for iteration in range(5):
        save(tmp_path, state(iteration), save_learner, keep=2)
    assert [path.name for path in checkpoint.available(tmp_path)] == ["000003", "000004"]


def test_saving_the_same_iteration_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, state(4), lambda folder: (folder / "model.bin").write_bytes(b"old") and None, keep=2)
    save(tmp_path, state(4), save_learner, keep=2)
    found = checkpoint.latest(tmp_path, pytest.fail)
    assert found is not None
    assert (found[1] / "model.bin").read_bytes() == b"weights"


class LateLearner:
    """Writes its files when it is waited for, or told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.folder: Path | None = None
        self.error = error
        self.sums: dict[str, Sum] = {}

    def save(self, folder: Path) -> None:
        assert self.folder is None
        self.folder = folder

    def write(self) -> None:
        assert self.folder is not None
        self.folder.joinpath("model.bin").write_bytes(b"weights")
        self.sums = {"model.bin": Sum(hashlib.sha256(b"weights").hexdigest(), 7)}

    def saving(self) -> bool:
        return not self.sums

    def saved(self) -> dict[str, Sum]:
        if self.error is not None:
            raise self.error
        if not self.sums:
            self.write()
        sums, self.sums, self.folder = self.sums, {}, None
        return sums


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_that_is_still_written_changes_nothing_until_it_is_whole(tmp_path: Path) -> None:
    learner, since = LateLearner(), []
    with Writer(tmp_path, learner, 2, pytest.fail, since.append) as writer:
        writer.begin(state(4))
        assert checkpoint.latest(tmp_path, pytest.fail) is None
        writer.settle()
        assert (names(tmp_path), since) == ([".000004.tmp"], [])
        learner.write()
        writer.settle()
        assert (names(tmp_path), since) == (["000004"], [4])
        writer.settle()
        writer.begin(state(5))
        writer.begin(state(6))  # the one before is waited for
        assert (names(tmp_path), since) == ([".000006.tmp", "000004", "000005"], [4, 4])
    assert (names(tmp_path), since) == (["000005", "000006"], [4, 4, 5])
    found = checkpoint.latest(tmp_path, pytest.fail)
    assert found is not None
    assert found[0] == state(6)


def test_what_a_killed_process_left_aside_is_no_checkpoint_and_goes(tmp_path: Path) -> None:
    save(tmp_path, state(4), save_learner, keep=2)
    checkpoint.begin(tmp_path, state(6), save_learner)
    found = checkpoint.latest(tmp_path, pytest.fail)
    assert found is not None
    assert found[0].iteration == 4
    save(tmp_path, state(5), save_learner, keep=2)
    assert names(tmp_path) == ["000004", "000005"]


def test_a_late_failure_leaves_the_old_checkpoint_and_is_raised(tmp_path: Path) -> None:
    save(tmp_path, state(4), save_learner, keep=1)
    learner = LateLearner(OSError(28, "No space left on device"))
    with (
        pytest.raises(OSError, match="No space left"),
        Writer(tmp_path, learner, 1, pytest.fail, pytest.fail) as writer,
    ):
        writer.begin(state(5))
    assert names(tmp_path) == ["000004"]


@pytest.mark.parametrize("error", [None, OSError(28, "No space left on device")])
@pytest.mark.parametrize("end", [ValueError("first"), Interrupted("first")])
def test_a_run_that_ends_otherwise_keeps_the_checkpoint_that_was_being_written(
    error: Exception | None, end: BaseException, tmp_path: Path
) -> None:
    warnings: list[str] = []
    with (
        pytest.raises(type(end), match="first"),
        Writer(tmp_path, LateLearner(error), 1, warnings.append, int) as writer,
    ):
        writer.begin(state(5))
        raise end
    assert names(tmp_path) == ([] if error else ["000005"])
    assert bool(warnings) == bool(error)
    assert all("is lost: [Errno 28] No space left on device" in warning for warning in warnings)


def test_what_the_learner_wrote_must_be_there_and_is_checked_against_what_it_meant(tmp_path: Path) -> None:
    meant = {"model.bin": Sum(hashlib.sha256(b"weighty").hexdigest(), 7)}
    pending = checkpoint.begin(tmp_path, state(4), lambda folder: folder)
    with pytest.raises(CheckpointError, match=r"learner/model.bin is not to be found .* see the same disk"):
        pending.finish(lambda: meant, keep=1)
    assert names(tmp_path) == []
    pending = checkpoint.begin(tmp_path, state(4), lambda folder: (folder / "model.bin").write_bytes(b"weigh"))
    with pytest.raises(CheckpointError, match=r"learner/model.bin has 5 bytes instead of 7"):
        pending.finish(lambda: meant, keep=1)
    path = checkpoint.begin(tmp_path, state(4), save_learner).finish(lambda: meant, keep=1)
    assert checkpoint.fault(path) == "learner/model.bin does not match its checksum"


def deltas(n: int) -> list[Delta]:
    return [
        Delta(f"g/{j}", (j, j + 1), (-0.5, -1.25), 2, j % 2 == 0, StopReason.EOS if j % 2 == 0 else None)
        for j in range(n)
    ]


def test_the_journal_gives_back_what_was_drawn(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.open(3) == []
    journal.append(deltas(2))
    journal.append([])
    journal.append(deltas(3))
    assert Journal(tmp_path).open(3) == deltas(2) + deltas(3)
    assert Journal(tmp_path).open(4) == []


@pytest.mark.parametrize("left", [1, 4, 8, 60, 400, 900])
def test_a_batch_torn_by_a_crash_is_cut_off(left: int, tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.open(3)
    journal.append(deltas(2))
    journal.close()
    path = tmp_path / "000003.arrow"
    whole = path.read_bytes()
    journal.open(3)
    journal.append(deltas(4))
    journal.close()
    path.write_bytes(path.read_bytes()[: len(whole) + left])
    again = Journal(tmp_path)
    assert again.open(3) == deltas(2)
    again.append(deltas(1))
    assert Journal(tmp_path).open(3) == deltas(2) + deltas(1)


def test_nothing_follows_a_batch_that_a_full_disk_has_torn(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.open(3)
    journal.append(deltas(2))
    journal._file = Filling(journal._file)  # type: ignore[assignment]
    with pytest.raises(OSError, match="No space left"):
        journal.append(deltas(4))
    for _ in range(2):
        with pytest.raises(JournalError, match=r"a write has failed, and nothing can follow it; start the run again"):
            journal.append(deltas(3))
    journal.close()
    assert Journal(tmp_path).open(3) == deltas(2)
    assert journal.open(3) == deltas(2), "the same process may go on, too"
    journal.append(deltas(1))
    assert Journal(tmp_path).open(3) == deltas(2) + deltas(1)


def test_a_journal_whose_head_does_not_get_onto_the_disk_is_not_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = list[Filling]()

    def fill(path: Path, *args: Any, **how: Any) -> Any:
        opened.append(Filling(real(path, *args, **how)))
        return opened[-1]

    real, journal = Path.open, Journal(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(Path, "open", fill)
        journal.open(3)
    assert opened[0].closed
    with pytest.raises(JournalError, match="nothing can follow it"):
        journal.append(deltas(1))
    assert journal.open(3) == []
    journal.append(deltas(2))
    assert Journal(tmp_path).open(3) == deltas(2)


def test_tokens_are_on_the_platter_before_anything_that_relies_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a batch on record, and before the journal of the next iteration is there: once each."""
    notes = list[str]()

    def fsync(file: int) -> None:
        there = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("."))
        notes.append(f"{Path(os.readlink(f'/proc/self/fd/{file}')).name.split('.')[0] or 'aside'} {' '.join(there)}")

    monkeypatch.setattr(os, "fsync", fsync)
    journal = Journal(tmp_path)
    journal.open(3)
    journal.append(deltas(1))
    journal.chose(3, ["g"])
    journal.append(deltas(2))
    for _ in range(2):  # as the driver does: after one iteration, and before the next
        journal.open(4)
    journal.append(deltas(1))
    batch = "000003.arrow 000003.batch.json"
    assert notes == ["000003 000003.arrow", "aside 000003.arrow", f"000003 {batch}"]


@pytest.mark.parametrize("length", [0, 3, 100])
def test_a_journal_torn_in_its_head_begins_anew(length: int, tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.open(3)
    journal.close()
    path = tmp_path / "000003.arrow"
    path.write_bytes(path.read_bytes()[:length])
    again = Journal(tmp_path)
    assert again.open(3) == []
    again.append(deltas(2))
    assert Journal(tmp_path).open(3) == deltas(2)


def test_what_an_earlier_version_wrote_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "000003.jsonl").write_text("[]\n")
    with pytest.raises(JournalError, match=r"000003.jsonl: written by an earlier version of k15.* --run-dir"):
        Journal(tmp_path)
    target = save(tmp_path / "checkpoints", state(4), save_learner, keep=2)
    (target / "state.json").write_text(json.dumps({"format": 1}))
    rows = json.loads((target / "manifest.json").read_text())
    rows["state.json"]["sha256"] = hashlib.sha256((target / "state.json").read_bytes()).hexdigest()
    (target / "manifest.json").write_text(json.dumps(rows))
    with pytest.raises(checkpoint.CheckpointError, match=r"000004: checkpoint format 1, this version of k15 reads 2"):
        checkpoint.latest(tmp_path / "checkpoints", pytest.fail)


def test_journals_are_dropped_by_iteration(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for iteration in range(5):
        journal.open(iteration)
    journal.drop_before(2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000002.arrow", "000003.arrow", "000004.arrow"]


def test_tokens_never_go_to_other_problems_than_they_were_drawn_for(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.open(3)
    journal.drawn(3, ["a", "b"])
    journal.drawn(3, ["a", "c"])  # nothing was sampled yet
    journal.append([Delta("000003.0000/0", (5,), (-1.0,), 3)])
    journal.drawn(3, ["a", "c"])
    with pytest.raises(JournalError, match=r"iteration 3 was begun with other problems \(1 of 2 are gone, first: 'c'"):
        journal.drawn(3, ["a", "b"])
    journal.close()
    journal.drop_before(4)
    assert [*tmp_path.iterdir()] == []
