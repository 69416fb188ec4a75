"""The driver of an overlapped run, over scripted engines and a learner that learns nothing: how it is cut short."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from factories import problem
from fake_engine import FakeEngine
from full_disk import Filling
from stream_kit import SCRIPT

from rewards.score import Score
from rl import on_policy, overlap
from rl.actors import LearnerDead
from rl.beside import beside, settle
from rl.buffer import Buffer
from rl.config import RunConfig
from rl.learner.stats import IterationStats
from rl.objectives.build import build
from rl.parts import Parts
from rl.record.log import MetricsLog
from rl.record.metrics import Row
from rl.rewarding import Rewarder, ScoredGroup
from rl.state import checkpoint
from rl.state.checkpoint import RunState, Sum
from rl.state.journal import Journal, JournalError
from rl.stop import Interrupted, Stopper
from rollout.engine import Delta, Request, WeightUpdate
from rollout.grading import Grading
from rollout.pool.pool import Pool
from rollout.progress import Track
from rollout.types import Group, Problem, Prompt, Rollout, StopReason, WeightVersion
from tests.processes import PATIENCE_S


class Learner:
    """Learns nothing. ``notes``: its calls, each as it begins and as it ends."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def publish(self, version: WeightVersion) -> WeightUpdate:
        return WeightUpdate(version, "local", {"size": 0})

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return [[-1.0] * (len(sequence) - 1) for sequence in sequences]

    def train(self, groups: Sequence[Group], advantages: Any, version: WeightVersion) -> IterationStats:
        self.notes.append("train")
        return IterationStats({"tokens/trained": 0})

    def accumulate(self, groups: Sequence[Group], advantages: Any, version: WeightVersion) -> None:
        self.notes.append("accumulate")

    def close_iteration(self, version: WeightVersion) -> IterationStats:
        return IterationStats({"tokens/trained": 0})

    def save(self, folder: Path) -> None:
        self.notes.append("save")

    def saving(self) -> bool:
        return False

    def saved(self) -> Mapping[str, Sum]:
        return {}


class Problems:
    overlong = ()

    def __init__(self) -> None:
        self.drawn = 0

    def draw(self, n: int) -> list[Problem]:
        self.drawn += n
        return [problem(index) for index in range(self.drawn - n, self.drawn)]

    def update(self, success: dict[str, float]) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}


class Watch(Track):
    def warn(self, text: str) -> None:
        raise AssertionError(text)

    def iteration(self, row: Row) -> None:
        pass


def config(**changes: Any) -> RunConfig:
    base = {
        "iterations": 4,
        "engine": {"kind": "hf", "max_model_len": 512},
        "rollout": {"groups": 2, "k": 2, "segment_tokens": 40, "max_tokens": 40, "loss_on": "all", "repetition": None},
        "learner": {"updates": 1},
        "overlap": {"max_staleness": 1},
        "checkpoint": {"every": 1},
        "eval": {"every": 0},
    }
    return RunConfig.model_validate({**base, **changes})


def run(config: RunConfig, folder: Path, learner: Learner, engine: FakeEngine, **parts: Any) -> RunState:
    with (
        Pool(lambda _: engine, config.engine, config.rollout) as pool,
        Grading.by(lambda _, text: Score.right() if len(text) % 2 else Score.wrong("even")) as grading,
    ):
        base = {
            "policy": learner,
            "pool": pool,
            "sampler": Problems(),
            "rewarder": Rewarder(config.reward, lambda _, turn: "x" * len(turn), grading),
            "objective": build(config.learner.objective, config.rollout.max_tokens),
            "render": lambda asked: Prompt((1, 2)),
            "episodes": None,
            "probe": lambda: [[1, 2, 3]],
            "evaluate": lambda _: None,
            "journal": Journal(folder / "journal"),
            "log": MetricsLog(folder),
            "store": lambda *_: None,
            "inspect": lambda _: None,
            "watch": Watch(),
            "stopper": Stopper(),
            "checkpoints": folder / "checkpoints",
        }
        state = checkpoint.latest(folder / "checkpoints", print)
        made = Parts(**{**base, **parts})
        loop = on_policy if config.overlap is not None and config.overlap.mode == "on_policy" else overlap
        try:
            return loop.train(config, RunState(0) if state is None else state[0], made)
        finally:
            made.journal.close()
            made.log.close()


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
    class Signalled(Journal):
        def append(self, deltas: Sequence[Delta]) -> None:
            came.append(deltas)
            if len(came) == 5:
                signal.raise_signal(signal.SIGTERM)
            super().append(deltas)

    came, folder = list[Sequence[Delta]](), tmp_path / "journal"
    with Stopper() as stopper, pytest.raises(Interrupted):
        engine = FakeEngine(SCRIPT, chunk=1)
        run(config(overlap=mode), tmp_path, Learner(), engine, journal=Signalled(folder), stopper=stopper)
    assert Journal(folder).open(0) == [delta for deltas in came for delta in deltas]


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


class ByAge(FakeEngine):
    """Draws of the three oldest groups that are not trained, and of those that the learner waits for: ``staleness``
    versions old. Under the last version it draws of three groups at a time.
    """

    def __init__(self, staleness: int, last: int) -> None:
        super().__init__(SCRIPT, chunk=1)
        self.staleness, self.last = staleness, last
        self.seen, self.trained = set[str](), set[str]()

    async def submit(self, requests: Sequence[Request]) -> None:
        self.seen |= {request.key.split("/")[0] for request in requests}
        await super().submit(requests)

    def _step(self, request: Request, drawn: list[int]) -> None:
        name, at_last = request.key.split("/")[0], self._draws == self.last
        there = {key.split("/")[0] for key in self._open} if at_last else self.seen - self.trained
        due = int(name[:6]) <= self._draws - self.staleness
        if due or name in sorted(there)[:3]:
            super()._step(request, drawn)


@pytest.mark.parametrize("staleness", [1, 2])
def test_batches_are_three_quarters_at_least_and_the_last_one_is_all_that_is_left(
    staleness: int, tmp_path: Path
) -> None:
    class Training(Learner):
        def train(self, groups: Sequence[Group], advantages: Any, version: WeightVersion) -> IterationStats:
            found.append(len(groups))
            engine.trained |= {group.id for group in groups}
            return super().train(groups, advantages, version)

    engine, found = ByAge(staleness, 3), list[int]()
    rollout = {"groups": 4, "k": 2, "segment_tokens": 40, "max_tokens": 40, "loss_on": "all", "repetition": None}
    done = run(config(overlap={"max_staleness": staleness}, rollout=rollout), tmp_path, Training(), engine)
    assert (found[0], min(found), len(found)) == (3, 3, 4)
    assert len(engine.seen) == sum(found)
    assert engine.seen == engine.trained, "each once, and none in vain"
    assert done.unfinished == ()
    assert (done.totals.rollouts, done.totals.tokens) == (sum(found) * 2, sum(found) * 2 * 40)


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


@pytest.mark.parametrize("staleness", [1, 2])
def test_engines_rest_while_a_learner_is_slower_than_they_are(
    staleness: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It trains until nothing is left to be drawn, in every iteration; no more is admitted than the bound allows."""

    class Counted(Buffer):
        def admit(self, groups: Iterable[Group]) -> None:
            super().admit(groups)
            sizes.append(len(self))

    class Slow(Learner):
        def train(self, groups: Sequence[Group], advantages: Any, version: WeightVersion) -> IterationStats:
            end = time.monotonic() + PATIENCE_S
            while engine._mail.tokens < problems.drawn * 2 * 40:
                assert time.monotonic() < end
                time.sleep(0.001)
            assert not engine._open
            return super().train(groups, advantages, version)

    sizes, problems, engine = list[int](), Problems(), FakeEngine(SCRIPT)
    monkeypatch.setattr(overlap, "Buffer", Counted)
    done = run(config(overlap={"max_staleness": staleness}), tmp_path, Slow(), engine, sampler=problems)
    assert done.iteration == 4
    assert max(sizes) == (staleness + 1) * 2
    assert engine._mail.tokens == done.totals.tokens == done.totals.rollouts * 40


@pytest.mark.parametrize("in_flight", [False, True])
def test_an_evaluation_has_the_engines_to_itself_under_the_weights_that_are_due(
    in_flight: bool, tmp_path: Path
) -> None:
    """It is due while responses are on their way, which go on behind the tokens that they have."""

    class Halting(FakeEngine):
        """Stops at 7 tokens of the two younger groups until an evaluation has been."""

        def __init__(self) -> None:
            super().__init__(SCRIPT, chunk=1, takes_in_flight=in_flight)
            self.drawn = Counter[str]()

        def _step(self, request: Request, drawn: list[int]) -> None:
            if request.key < "000000.0002" or self.drawn[request.key] < 7 or evaluated:
                self.drawn[request.key] += 1
                super()._step(request, drawn)

    def evaluate(i: int) -> None:
        before = engine.drawn.copy()
        time.sleep(0.05)  # it would draw on meanwhile
        assert (engine._open, engine.drawn) == ({}, before)
        evaluated.append((i, engine._version))

    def store(i: int, scored: Sequence[ScoredGroup], *_: Any) -> None:
        trained.update({rollout.id: rollout for item in scored for rollout in item.group.rollouts})

    engine, evaluated, trained = Halting(), list[tuple[int, WeightVersion]](), dict[str, Rollout]()
    asked = config(iterations=3, eval={"every": 1})
    run(asked, tmp_path, Learner(), engine, evaluate=evaluate, store=store)
    assert evaluated == [(1, 1), (2, 2)]
    younger = [f"000000.000{g}/{j}" for g in (2, 3) for j in (0, 1)]
    for key in younger:
        assert [(segment.version, len(segment)) for segment in trained[key].segments] == [(0, 7), (1, 33)]
    assert engine.drawn == Counter(dict.fromkeys(trained, 40)), "none twice"
