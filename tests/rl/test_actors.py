"""The learner's actors as one policy: what it raises, and who is left, when some of them die, fail or fall silent."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray.exceptions import GetTimeoutError

from rl.actors import LearnerDead, RayPolicy, exit_detail
from rl.config import RunConfig
from rl.learner.host import _store
from rl.learner.spec import LearnerSpec, Receivers
from rl.stop import Interrupted, Stopper
from tests.actors_kit import MISSING, Unloadable, policy
from tests.processes import running, until_gone

SPEC = LearnerSpec.of(RunConfig())
PAGE = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: LearnerRank\n\tpid: 17\nThe actor is dead "
    "because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits "
    "with a connection error code 2. End of file. Some common causes include: (1) the process was killed"
)


def test_a_death_is_told_in_one_line() -> None:
    """Ray's own text is a page."""
    assert exit_detail(PAGE) == "Worker unexpectedly exits with a connection error code 2. End of file"
    assert exit_detail("The actor died.\n\tpid: 17") == "The actor died."


def test_ranks_that_have_no_place_any_more_are_dead_ranks() -> None:
    """As when their node is gone; the run then tries again, and ends with one line."""

    def spawn(*_: object) -> list[object]:
        raise GetTimeoutError("Get timed out: some object(s) not ready.")

    with pytest.raises(LearnerDead, match=r"^the learner cannot be reached for its start: Get timed out.*; the same"):
        RayPolicy(spawn, SPEC, "model", 1.0, 1.0)


@pytest.mark.parametrize(("alive", "kept"), [([True], False), ([True, False], False), ([True, True], True)])
def test_weights_are_put_into_the_object_store_only_for_other_machines(
    alive: list[bool], kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": each} for each in alive])
    assert _store(Receivers("shm")) is None
    assert (_store(Receivers("nccl", elsewhere=True)) is ray.put) == kept
    assert _store(Receivers("shm", growing=True)) is ray.put, "who joins later may be anywhere"


class Instant:
    """An actor that has done at once what it is called for; ``called`` gets the names."""

    def __init__(self, called: list[str]) -> None:
        self.called = called

    def __getattr__(self, method: str) -> SimpleNamespace:
        def remote(*_: object) -> SimpleNamespace:
            self.called.append(method)
            done: Future[bool] = Future()
            done.set_result(False)
            return SimpleNamespace(future=lambda: done)

        return SimpleNamespace(remote=remote)


def test_who_calls_the_learner_claims_its_devices_unless_the_call_needs_none(tmp_path: Path) -> None:
    called: list[str] = []
    policy = RayPolicy(lambda *_: [Instant(called)], SPEC, "model", 1.0, 1.0)
    policy.claim = lambda: called.append("claim")
    called.clear()
    policy.offload(), policy.onload(), policy.saving(), policy.saved()
    assert called == ["offload", "onload", "saving", "saved"]
    called.clear()
    policy.publish(1), policy.score([]), policy.train([], [], 1), policy.save(tmp_path), policy.load(tmp_path)
    assert called[0::2] == ["claim"] * 5
    assert called[1::2] == ["publish", "score", "train", "save", "load"]


def test_a_learner_that_has_ended_starts_again_where_its_devices_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim comes before the new actors, and finds nobody to bring back."""
    called: list[str] = []
    policy = RayPolicy(lambda *_: [Instant(called)], SPEC, "model", 1.0, 1.0)
    monkeypatch.setattr(ray, "kill", lambda _: None)
    policy.end()
    called.clear()

    def claim() -> None:
        called.append("claim")
        policy.onload()

    policy.claim = claim
    policy.replace(SPEC, "model")
    assert called == ["claim", "ready"]
    with pytest.raises(LearnerDead, match="has ended"):
        policy.end(), policy.offload()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
class TestRealActors:
    def test_a_rank_that_is_killed_ends_all_and_replace_starts_them_anew(self, tmp_path: Path) -> None:
        """The others wait for it in an exchange."""
        group = policy(3, meet=tmp_path)
        first = pids(group, 3)
        with pytest.raises(LearnerDead, match=r"^rank 1 of the learner's 3 died during act: .*; the same command") as e:
            group.call("act", ["meet", "die", "meet"])
        assert "\n" not in str(e.value)
        until_gone(first)
        with pytest.raises(LearnerDead, match=r"^the learner has ended; "):
            group.call("act", ["meet"] * 3)
        group.replace(SPEC, "model")
        assert not first & pids(group, 3)
        assert group.call("act", ["meet"] * 3)[0] == 0
        group.end()

    @pytest.mark.parametrize(
        ("plan", "words"),
        [
            (["wait", "raise ValueError no\nsecond"], "rank 1 of .* 2 failed alone during act: ValueError: no;"),
            (["wait", "die"], "rank 1 of the learner's 2 died during act"),
            (
                ["raise CUDA none. Tried", "wait"],
                "rank 0 .* ran out of memory during act: none. Tried; lower",
            ),
            (["raise MemoryError no", "raise MemoryError no"], "ran out of memory during act: no; lower"),
            (["return", "raise MemoryError "], "rank 1 .* ran out of memory during act"),
        ],
    )
    def test_a_rank_that_the_others_wait_for_in_vain_ends_all(self, plan: list[str], words: str) -> None:
        group = policy(2)
        first = pids(group, 2)
        with pytest.raises(LearnerDead, match=words) as caught:
            group.call("act", plan)
        assert "\n" not in str(caught.value)
        until_gone(first)

    @pytest.mark.parametrize("plan", [["raise OSError full"] * 2, ["raise OSError full", "return"]])
    def test_what_all_ranks_have_ended_arrives_as_it_is_and_they_go_on(self, plan: list[str]) -> None:
        """Also where only the rank that writes has failed."""
        group = policy(2)
        first = pids(group, 2)
        with pytest.raises(OSError, match=r"^full$"):
            group.call("act", plan)
        assert pids(group, 2) == first
        assert all(map(running, first))
        group.end()

    def test_silence_ends_them_after_the_limit(self) -> None:
        group = policy(2)
        group.timeout_s = 1.0
        with pytest.raises(LearnerDead, match="rank 1 of the learner's 2 did not finish act within 1 s; the same"):
            group.call("act", ["return", "wait"])
        assert group.actors == []

    @pytest.mark.parametrize("size", [1, 2])
    def test_a_signal_cuts_the_waiting_short(self, size: int) -> None:
        """Without an end of the call: Ray's own waiting went on, and then raised a ``SystemError``."""
        group = policy(size, timeout_s=60.0)
        with Stopper() as stopper, pytest.raises(Interrupted), stopper.interruptible():
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
            group.call("act", ["wait"] * size)
        group.end()

    @pytest.mark.parametrize("size", [1, 2])
    def test_a_model_that_cannot_be_loaded_is_told_as_it_is(self, size: int) -> None:
        with pytest.raises(Unloadable, match=r"^model no such model cannot be loaded\n"):
            policy(size, MISSING)

    def test_one_rank_that_cannot_load_ends_all(self) -> None:
        with pytest.raises(LearnerDead, match=r"rank 1 .* alone during ready: Unloadable: model no such model:1"):
            policy(2, f"{MISSING}:1")

    def test_replace_keeps_ranks_that_live(self) -> None:
        group = policy(2)
        first = pids(group, 2)
        group.replace(SPEC, "another")
        assert pids(group, 2) == first
        group.end()


def pids(group, size: int) -> set[int]:
    """Their processes, by asking each."""
    import ray

    return {pid for _, pid in ray.get([actor.act.remote(["return"] * size) for actor in group.actors])}
