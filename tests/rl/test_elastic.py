"""Engines that join and leave while a run goes on: who decides, on a cluster that is told what it has."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import wait
from pathlib import Path

import pytest
from fake_engine import FakeEngine, Faults, seeded_script
from pool_kit import PROBE, Fleet, engine, logprob, make_groups, pool_of, reference, update

from rl.config import RunConfig
from rl.elastic import Elastic
from rl.record.timeline import read_timeline
from rollout.engine import Engine
from rollout.timeline import FILE, recording


class Room:
    """A place on a cluster that has room for it, or will."""

    def __init__(self, ready: bool = True) -> None:
        self.is_ready, self.is_lost, self.released = ready, False, False

    def ready(self) -> bool:
        return self.is_ready

    def lost(self) -> bool:
        return self.is_lost

    def release(self) -> None:
        self.released = True

    def spawn(self, index: int) -> Engine:
        return engine()


def seen_off(elastic: Elastic) -> None:
    """Look until those that leave have left."""
    wait(elastic.leaving)
    elastic.look()
    assert not elastic.leaving


def test_engines_join_one_by_one_as_there_is_room_and_no_more_than_wanted() -> None:
    rooms, told = [Room(), Room(ready=False), Room()], list[str]()
    with pool_of(Fleet(), count=1) as pool:
        open_ = iter(rooms)
        elastic = Elastic(pool, 3, lambda: next(open_), told.append)
        elastic.look()
        assert pool.members == [0, 1]
        elastic.look()
        elastic.look()
        assert pool.members == [0, 1], "there is no room for a third one yet"
        assert elastic.wish is rooms[1], "one wish is open, and stays"
        rooms[1].is_ready = True
        elastic.look()
        elastic.look()
        assert pool.members == [0, 1, 2]
        assert next(open_) is rooms[2], "nobody asked for it"
        assert len(told) == 2


def test_an_engine_whose_node_is_gone_leaves_and_its_work_goes_on() -> None:
    room, told = Room(), list[str]()
    with pool_of(Fleet(), count=1) as pool:
        pool.publish(update(1), PROBE, reference(1))
        elastic = Elastic(pool, 2, lambda: room, told.append)
        elastic.look()
        assert pool.members == [0, 1]
        first = pool.extend(make_groups(), 1)
        room.is_lost = True
        elastic.most = 1
        elastic.look()
        seen_off(elastic)
        assert pool.members == [0]
        assert room.released
        assert pool.stats().failures == 0, "that is no failure"
        assert pool.extend(make_groups(), 1) == first
        assert "its node is gone" in told[-1]


def test_its_lane_of_the_timeline_begins_and_ends_with_it(tmp_path: Path) -> None:
    room = Room()
    with recording(tmp_path / FILE, pytest.fail), pool_of(Fleet(), count=1) as pool:
        elastic = Elastic(pool, 2, lambda: room, lambda _: None)
        elastic.look()
        room.is_lost, elastic.most = True, 1
        elastic.look()
        seen_off(elastic)
    (process,) = read_timeline(tmp_path)
    assert [*process.joined] == [*process.left] == ["engine 1"]
    assert process.joined["engine 1"] <= process.left["engine 1"]


def test_an_engine_that_was_given_up_gives_its_room_back_and_nobody_asks_for_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rollout.pool.slot.BACKOFF_S", 1e-4)

    class Broken(Room):
        def spawn(self, index: int) -> Engine:
            return engine(Faults(fail_start=True))

    rooms, told = [Broken(), Room()], list[str]()
    with pool_of(Fleet(), count=1) as pool:
        open_ = iter(rooms)
        elastic = Elastic(pool, 3, lambda: next(open_), told.append)
        elastic.look()
        while pool.given_up != [1]:
            time.sleep(0.001)
        elastic.look()
        seen_off(elastic)
        assert pool.members == [0, 2]
        elastic.look()
        assert (elastic.most, elastic.wish, pool.members) == (2, None, [0, 2])
        assert [room.released for room in rooms] == [True, False]
        assert "engine 1 leaves: it did not stay alive" in told
        assert pool.stats().given_up == 1, "it counts although it has left"


def test_nodes_that_are_lost_one_after_the_other_hold_no_publish_up() -> None:
    """The publish waits for the engines of both, which cannot start; the first to leave waits for the publish."""

    class Stuck(FakeEngine):
        async def start(self) -> None:
            await asyncio.sleep(3600)

    class Lost(Room):
        spawned = 0

        def spawn(self, index: int) -> Engine:
            self.spawned += 1
            return engine() if self.spawned == 1 else Stuck(seeded_script(32), logprob)

    rooms = [Lost(), Lost()]
    with pool_of(Fleet(), count=1) as pool:
        open_ = iter(rooms)
        elastic = Elastic(pool, 3, lambda: next(open_), print)
        elastic.look()
        elastic.look()
        pool.wait()
        elastic.most = 1
        for slot in pool._fleet.slots[1:]:
            slot.life.engine._dead = True  # type: ignore[union-attr]
        publishing = threading.Thread(target=pool.publish, args=(update(1), PROBE, reference(1)))
        publishing.start()
        while [room.spawned for room in rooms] != [2, 2]:
            time.sleep(0.001)
        for room in rooms:
            assert publishing.is_alive()
            room.is_lost = True
            elastic.look()
        publishing.join(30)
        assert not publishing.is_alive()
        seen_off(elastic)
        assert [room.released for room in rooms] == [True, True]
        assert (pool.members, pool.version) == ([0], 1)


def test_the_last_engine_that_works_stays_when_the_first_ones_were_given_up() -> None:
    rooms = [Room(), Room(ready=False)]
    with pool_of(Fleet(Faults(fail_start=True)), count=1, max_restarts=0) as pool:
        open_ = iter(rooms)
        elastic = Elastic(pool, 2, lambda: next(open_), print)
        elastic.look()
        pool.wait()
        assert pool.given_up == [0]
        rooms[0].is_lost = True
        elastic.look()
        assert (pool.members, elastic.leaving) == ([0, 1], {})


def test_a_wish_is_taken_back_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl.elastic.LOOK_S", 0.01)
    room = Room(ready=False)
    with pool_of(Fleet(), count=1) as pool, Elastic(pool, 2, lambda: room, print) as elastic:
        while elastic.wish is None:
            time.sleep(0.001)
    assert room.released


def test_a_fault_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl.elastic.LOOK_S", 0.001)
    told, asked = list[str](), list[int]()

    def ask() -> Room:
        asked.append(1)
        raise OSError("no cluster")

    with pool_of(Fleet(), count=1) as pool, Elastic(pool, 2, ask, told.append):
        while len(asked) < 4:
            time.sleep(0.001)
    assert told == ["no engine can join or leave now: no cluster"]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="is below"):
        RunConfig.model_validate({"engine": {"count": 3, "most": 2}})
    with pytest.raises(ValueError, match="without Ray"):
        RunConfig.model_validate({"engine": {"kind": "hf", "most": 2}, "ray": {"in_process": True}})
