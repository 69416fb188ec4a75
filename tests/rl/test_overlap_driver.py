"""The driver of an overlapped run, over scripted engines and a learner that learns nothing: how it is cut short."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from factories import problem
from fake_engine import FakeEngine
from full_disk import Filling
from overlap_kit import Learner, Problems, Watch, config, run
from signalled import Signalled
from stream_kit import SCRIPT

from rl.actors import LearnerDead
from rl.beside import beside, settle
from rl.learner.stats import IterationStats
from rl.record.metrics import Row
from rl.rewarding import ScoredGroup
from rl.state import checkpoint
from rl.state.journal import Journal, JournalError
from rl.stop import Interrupted, Stopper
from rollout.engine import Delta
from rollout.types import Group, Rollout, StopReason, WeightVersion


def journalled(folder: Path, iteration: int) -> Counter[str]:
    """Tokens of each rollout in the journal of an iteration."""
    journal, found = Journal(folder / "journal"), Counter[str]()
    for delta in journal.open(iteration):
        found[delta.key] += len(delta.token_ids)
    journal.close()
    return found


class Paused(FakeEngine):
    """Draws nothing of some iteration's groups until it is told to."""

    def __init__(self) -> None:
        super().__init__(SCRIPT, chunk=1)
        self.held, self.quota = "000001", 0

    def _step(self, request: Any, drawn: list[int]) -> None:
        if not request.key.startswith(self.held) or len(drawn) < self.quota:
            super()._step(request, drawn)


def test_tokens_between_the_last_snapshot_and_a_stop_are_on_the_way_of_the_next_process(tmp_path: Path) -> None:
    """The signal comes when an iteration is done, while groups of the next one are drawn."""
    engine, stopper = Paused(), Stopper()

    def inspect(row: Row) -> None:
        if row["iteration"] == 1:
            stopper.signal, before, engine.quota = signal.SIGTERM, engine._mail.tokens, 7
            while engine._mail.tokens < before + 7:
                threading.Event().wait(0.001)

    with pytest.raises(Interrupted):
        run(config(), tmp_path, Learner(), engine, inspect=inspect, stopper=stopper)
    found = checkpoint.latest(tmp_path / "checkpoints", print)
    assert found is not None
    waiting = {rollout.id: rollout.length for group in found[0].unfinished for rollout in group.rollouts}
    late = journalled(tmp_path, found[0].iteration)
    assert sum(late.values()) >= 7
    assert all(waiting[key] + tokens <= 40 for key, tokens in late.items())
    rows = list[Row]()
    done = run(config(), tmp_path, Learner(), FakeEngine(SCRIPT), inspect=rows.append)
    assert done.iteration == 4
    assert done.totals.rollouts == 16


def test_tokens_behind_a_batch_that_a_full_disk_has_torn_are_lost_and_that_is_told(tmp_path: Path) -> None:
    """There is room again when the run ends and the tokens come that were on their way: none of them may be kept."""

    class Torn(Journal):
        def append(self, deltas: Sequence[Delta]) -> None:
            if len(kept) == 5 and self._file is not None and not isinstance(self._file, Filling):
                self._file = Filling(self._file)  # type: ignore[assignment]
            super().append(deltas)
            kept.append(deltas)

    class Told(Watch):
        def warn(self, text: str) -> None:
            told.append(text)

    kept, told = list[Sequence[Delta]](), list[str]()
    folder = tmp_path / "journal"
    with pytest.raises(OSError, match="No space left"):
        run(config(), tmp_path, Learner(), FakeEngine(SCRIPT, chunk=1), journal=Torn(folder), watch=Told())
    assert len(told) == 1
    assert told[0].startswith("the last tokens are lost, and are sampled again: ")
    assert "nothing can follow it" in told[0]
    assert Journal(folder).open(0) == [delta for deltas in kept for delta in deltas]
    assert run(config(), tmp_path, Learner(), FakeEngine(SCRIPT)).iteration == 4


@pytest.mark.parametrize("mode", [{"max_staleness": 1}, {"mode": "on_policy"}], ids=["window", "on_policy"])
def test_a_stop_signal_in_the_midst_of_a_piece_of_news_leaves_no_gap(mode: dict[str, Any], tmp_path: Path) -> None:
    journal = Signalled(tmp_path / "journal", at=5)
    with Stopper() as stopper, pytest.raises(Interrupted):
        engine = FakeEngine(SCRIPT, chunk=1)
        run(config(overlap=mode), tmp_path, Learner(), engine, journal=journal, stopper=stopper)
    assert len(journal.came) >= 5
    assert journal.recorded()


def test_what_came_too_late_for_a_rollout_is_passed_over_when_it_is_read_back(tmp_path: Path) -> None:
    """Its journal may have it: one of the deltas of one poll can finish the rollout of another."""
    key, other = "000000.0000/0", "000000.0000/1"
    journal = Journal(tmp_path / "journal")
    journal.open(0)
    failed = Delta(key, (5,), (-1.0,), 0, True, error="engine 0 died")
    journal.append([failed] * 5 + [Delta(key, (6,), (-1.0,), 0), Delta(other, (7,), (-1.0,), 0)])
    journal.close()
    kept = dict[str, Rollout]()

    def store(i: int, scored: Sequence[ScoredGroup], *_: Any) -> None:
        kept.update({rollout.id: rollout for item in scored for rollout in item.group.rollouts})

    assert run(config(), tmp_path, Learner(), FakeEngine(SCRIPT), store=store).iteration == 4
    assert (kept[key].stop, kept[key].token_ids.tolist()) == (StopReason.ABORTED, [5] * 5)
    assert (kept[other].length, kept[other].token_ids[0]) == (40, 7)


def test_a_learner_that_adds_gradients_up_is_let_finish_before_it_is_saved_for_a_stop(tmp_path: Path) -> None:
    class Busy(Learner):
        def __init__(self) -> None:
            super().__init__()
            self.asked = threading.Event()

        def accumulate(self, groups: Sequence[Group], advantages: Any, version: WeightVersion) -> None:
            super().accumulate(groups, advantages, version)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
            self.asked.wait(1.0)  # it would be asked meanwhile
            self.notes.append("accumulated")

        def save(self, folder: Path) -> None:
            super().save(folder)
            self.asked.set()

    learner = Busy()
    with Stopper() as stopper, pytest.raises(Interrupted):
        run(config(overlap={"mode": "on_policy"}), tmp_path, learner, FakeEngine(SCRIPT), stopper=stopper)
    assert learner.notes == ["accumulate", "accumulated", "save"]


def test_rollouts_are_stored_before_the_death_of_their_learner_is_told(tmp_path: Path) -> None:
    notes, told = list[str](), threading.Event()

    class Dying(Learner):
        def train(self, groups: Sequence[Group], advantages: Any, version: WeightVersion) -> IterationStats:
            raise LearnerDead("killed")

    def store(*_: Any) -> None:
        told.wait(1.0)  # it would be told meanwhile
        notes.append("stored")

    with pytest.raises(LearnerDead):
        run(config(), tmp_path, Dying(), FakeEngine(SCRIPT), store=store)
    notes.append("told")
    told.set()
    assert notes == ["stored", "told"]


def test_a_batch_on_record_whose_tokens_are_not_is_refused_in_a_line(tmp_path: Path) -> None:
    Journal(tmp_path / "journal").chose(0, ["000000.0000"])
    with pytest.raises(JournalError, match=r"group 000000\.0000, whose tokens are not all on record"):
        run(config(), tmp_path, Learner(), FakeEngine(SCRIPT))


def test_a_call_that_is_cancelled_before_it_begins_never_does(monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(threading.Thread):
        def start(self) -> None:
            late.append(self)

    late, done = list[threading.Thread](), list[int]()
    monkeypatch.setattr("rl.beside.threading.Thread", Late)
    call = beside("late", done.append, 1)
    assert call.cancel()
    late[0].run()
    assert done == []


def test_a_call_is_settled_when_it_has_ended() -> None:
    call = beside("call", threading.Event().wait, 0.2)
    settle(call)
    assert call.done()


def test_the_sampler_hears_of_an_iteration_as_in_turn_whichever_group_was_finished_first(tmp_path: Path) -> None:
    """Otherwise problems drawn by success would differ when a killed run goes through the iteration again."""

    class Heard(Problems):
        def __init__(self) -> None:
            super().__init__()
            self.heard: list[dict[str, float]] = []

        def update(self, success: dict[str, float]) -> None:
            self.heard.append(success)

    class Freeing(Learner):
        def accumulate(self, groups: Sequence[Group], advantages: Any, version: WeightVersion) -> None:
            super().accumulate(groups, advantages, version)
            engine.quota = 40

    engine, learner, heard = Paused(), Freeing(), Heard()
    engine.held = "000000.0000"  # the oldest group is the last one
    run(config(overlap={"mode": "on_policy"}, iterations=1), tmp_path, learner, engine, sampler=heard)
    assert learner.notes.count("accumulate") == 2
    assert [list(success) for success in heard.heard] == [[problem(0).id, problem(1).id]]


@pytest.mark.parametrize("mode", [{"max_staleness": 1}, {"mode": "on_policy"}], ids=["window", "on_policy"])
def test_no_more_responses_are_counted_than_are_under_way(mode: dict[str, Any], tmp_path: Path) -> None:
    class Counting(Watch):
        def stage(self, name: str, total: int | None = None, earlier: int = 0) -> None:
            if name == "generate":
                stages.append((0, total or 0))

        def advance(self, n: int, tokens: int = 0) -> None:
            done, total = stages[-1]
            stages[-1] = (done + n, total)

    stages = list[tuple[int, int]]()
    run(config(overlap=mode), tmp_path, Learner(), FakeEngine(SCRIPT), watch=Counting())
    assert len(stages) == 4
    assert 0 < sum(done for done, _ in stages) <= 16
    assert all(done <= total for done, total in stages), stages
