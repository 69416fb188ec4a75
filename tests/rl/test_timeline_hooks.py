"""Who tells the timeline what it does: driver, learner, engines, grader, checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, groupby
from pathlib import Path

import pytest
from factories import problem
from fake_engine import Faults
from learner_kit import learner_spec, save_tiny_model
from learner_kit import make_groups as learner_groups
from pool_kit import PROBE, Fleet, engine, make_groups, pool_of, reference, update

from rewards.score import Score
from rl.learner.host import LearnerHost
from rl.learner.spec import Receivers
from rl.record.log import Timer
from rl.record.timeline import pieces, read_timeline
from rl.state.checkpoint import RunState, Writer
from rollout.grading import Answered, Grading
from rollout.timeline import FILE, recording


def recorded(folder: Path, work: Callable[[], object]) -> dict[str, list[str]]:
    """What each lane did in ``work``, in order; every event takes a second, so that none are joined."""
    with recording(folder / FILE, pytest.fail, clock=count().__next__):
        work()
    (process,) = read_timeline(folder)
    lanes = dict.fromkeys(span.lane for span in process.spans)
    return {lane: [piece.what for piece in pieces(process, lane)] for lane in lanes}


def test_engines_start_take_weights_score_and_sample(tmp_path: Path) -> None:
    def work() -> None:
        with pool_of(lambda _: engine(), count=2) as pool:
            for version in range(2):
                pool.publish(update(version), PROBE, reference(version))
                pool.extend(make_groups(), version)

    turn = ["publish", "score", "sample"]
    assert recorded(tmp_path, work) == {f"engine {i}": ["start", *turn, *turn] for i in range(2)}


def test_an_engine_that_died_starts_again_and_a_killed_one_samples_no_more(tmp_path: Path) -> None:
    fleet = Fleet(Faults(die_after=10))

    def work() -> None:
        with pool_of(fleet) as pool:
            pool.publish(update(0), PROBE, reference(0))
            pool.extend(make_groups(), 0)

    turn = ["publish", "score", "sample"]
    assert recorded(tmp_path, work) == {"engine 0": ["start", *turn, "start", *turn]}


def test_an_interrupted_call_leaves_no_engine_at_work(tmp_path: Path) -> None:
    class Interrupt(BaseException):
        pass

    def stop(_: object) -> None:
        raise Interrupt

    def work() -> None:
        with pool_of(lambda _: engine()) as pool:
            pool.publish(update(0), PROBE, reference(0))
            with pytest.raises(Interrupt):
                pool.extend(make_groups(), 0, stop)
            assert pool.score(PROBE)
            pool.extend(make_groups(), 0)

    assert recorded(tmp_path, work)["engine 0"].count("sample") == 2


def test_the_learner_s_calls_are_its_own(tmp_path: Path) -> None:
    host = LearnerHost(learner_spec(), save_tiny_model(tmp_path / "model"), Receivers("local"))
    groups = learner_groups(2)

    def work() -> None:
        host.publish(3)
        host.score([[5, 6, 7]])
        host.train(groups, [[1.0, -1.0, 0.5, -0.5]] * 2, 3)
        host.publish(4)
        host.accumulate(learner_groups(2, version=4), [[1.0, -1.0, 0.5, -0.5]] * 2, 4)
        host.close_iteration(4)
        (tmp_path / "saved").mkdir()
        host.save(tmp_path / "saved")
        host.saved()
        host.load(tmp_path / "saved")

    found = [what for what, _ in groupby(recorded(tmp_path, work)["learner"])]
    assert found == ["publish", "score", "train", "publish", "train", "save", "load"]


def test_the_phases_of_an_iteration_are_the_driver_s(tmp_path: Path) -> None:
    def work() -> None:
        timer = Timer()
        for phase in ("publish", "eval", "generate", "score", "train", "store", "checkpoint"):
            with timer(phase):
                pass

    assert recorded(tmp_path, work) == {"driver": ["publish", "eval", "sample", "grade", "train", "store", "save"]}


def test_a_grader_is_at_work_until_its_scores_are_there(tmp_path: Path) -> None:
    def work() -> None:
        with Grading.by(lambda _, text: Score.right(text)) as grading:
            grading.submit(lambda: [Answered(problem(0), "7")]).result(60)

    assert recorded(tmp_path, work) == {"grader": ["grade"]}


def test_a_checkpoint_is_saved_from_its_begin_to_its_finish(tmp_path: Path) -> None:
    class Late:
        """Still writes when ``save`` returns."""

        def save(self, folder: Path) -> None:
            (folder / "weights").write_bytes(b"x")

        def saving(self) -> bool:
            return True

        def saved(self) -> dict[str, object]:
            return {}

    def work() -> None:
        (tmp_path / "checkpoints").mkdir()
        with Writer(tmp_path / "checkpoints", Late(), 2, pytest.fail, lambda _: None) as writer:  # type: ignore[arg-type]
            writer.begin(RunState(1))
            with Timer()("train"):
                pass
            writer.settle()

    with recording(tmp_path / FILE, pytest.fail, clock=count().__next__):
        work()
    (process,) = read_timeline(tmp_path)
    saver, driver = ([span for span in process.spans if span.lane == lane] for lane in ("saver", "driver"))
    assert saver[0].start <= driver[0].start
    assert driver[0].end <= saver[-1].end
    assert {span.what for span in saver} == {"save"}
