"""A publish on scripted engines: who takes part, what a version is, and what an engine gets that comes later."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from fake_engine import FakeEngine, Faults, seeded_script
from pool_kit import PROBE, Fleet, engine, logprob, make_groups, pool_of, reference, shifted, undisturbed

from rollout.engine import AllEnginesDead, CopyGone, Delta, EngineDead, ParityError, WeightUpdate
from rollout.pool.pool import Pool

DIRECT = {"size": 8, "direct": {"nccl": {}}}


def update(version: int) -> WeightUpdate:
    return WeightUpdate(version, "nccl", dict(DIRECT))


def publish(pool: Pool, version: int) -> None:
    pool.publish(update(version), PROBE, reference(version))


def ways(fake: FakeEngine) -> list[tuple[int, Any]]:
    """Version of each update begun, and who took part; ``None``: it was the copy."""
    return [(each.version, each.payload["roster"] if "direct" in each.payload else None) for each in fake.updates]


def test_those_who_live_take_part_and_a_restarted_engine_gets_the_copy() -> None:
    fleet = Fleet(None, Faults(die_after=5), None)
    with pool_of(fleet, count=3) as pool:
        pool.wait()
        publish(pool, 1)
        pool.extend(make_groups(), 1)
        publish(pool, 2)
    assert [ways(fake) for fake in fleet.made[:3]] == [
        [(1, [0, 1, 2]), (2, [0, 1, 2])],
        [(1, [0, 1, 2])],
        [(1, [0, 1, 2]), (2, [0, 1, 2])],
    ]
    assert ways(fleet.made[3]) == [(1, None), (2, [0, 1, 2])]


def test_an_engine_that_died_unnoticed_is_not_waited_for() -> None:
    fleet = Fleet()
    with pool_of(fleet, count=2) as pool:
        pool.wait()
        publish(pool, 1)
        fleet.made[1]._dead = True
        publish(pool, 2)
        assert pool.stats().failures == 1
    assert ways(fleet.made[0])[1] == (2, [0])
    assert ways(fleet.made[2]) == [(2, None)]


def test_a_lost_broadcast_costs_no_engine() -> None:
    fleet = Fleet(Faults(lose_direct=True), Faults(lose_direct=True))
    with pool_of(fleet, count=2) as pool:
        pool.wait()
        publish(pool, 1)
        assert (pool.version, pool.stats().failures) == (1, 0)
    assert [ways(fake) for fake in fleet.made] == [[(1, [0, 1]), (1, None)]] * 2


def test_a_version_counts_when_every_engine_has_it_and_has_passed_the_probe() -> None:
    seen: list[int] = []

    class Late(FakeEngine):
        async def hold(self, version: int) -> None:
            await asyncio.sleep(0.05)
            seen.append(pool.version)

        async def score(self, sequences: Any) -> list[list[float]]:
            seen.append(pool.version)
            return await super().score(sequences)

    def spawn(index: int) -> FakeEngine:
        made = engine()
        made.__class__ = Late if index else FakeEngine
        return made

    with pool_of(spawn, count=2) as pool:
        pool.wait()
        publish(pool, 1)
        assert (seen, pool.version) == ([0, 0], 1)
        with pytest.raises(ParityError):
            pool.publish(update(2), PROBE, shifted(reference(2), 0.5))
        assert pool.version == 1
    with pool_of(Fleet(*[Faults(fail_update=True)] * 9), max_restarts=1) as pool:
        with pytest.raises(AllEnginesDead):
            publish(pool, 1)
        assert pool.version == 0


def test_an_interrupted_publish_leaves_the_version_before_it() -> None:
    """One engine has the new weights by then: before it serves the old version it takes that again, as a copy."""
    entered = threading.Event()

    class Stuck(FakeEngine):
        async def hold(self, version: int) -> None:
            if version == 2 and "direct" in self.updates[-1].payload:
                entered.set()
                await asyncio.sleep(3600)

    fleet = Fleet()

    def spawn(index: int) -> FakeEngine:
        made = fleet(index)
        assert isinstance(made, FakeEngine)
        made.__class__ = Stuck if index else FakeEngine
        return made

    with pool_of(spawn, count=2, call_timeout_s=60.0) as pool:
        pool.wait()
        publish(pool, 1)
        publishing = asyncio.run_coroutine_threadsafe(_published(pool), pool._calls.loop)
        assert entered.wait(30)
        publishing.cancel()
        assert pool.version == 1
        groups = pool.extend(make_groups(), 1)
        assert {segment.version for group in groups for each in group.rollouts for segment in each.segments} == {1}
        publish(pool, 3)
        assert pool.version == 3
    assert ways(fleet.made[0]) == [(1, [0, 1]), (2, [0, 1]), (1, None), (3, [0, 1])]
    assert ways(fleet.made[1]) == [(1, [0, 1]), (2, [0, 1]), (1, None), (3, [0, 1])]


async def _published(pool: Pool) -> None:
    from rollout.pool.slot import Publication

    await pool._fleet.publish(Publication(update(2), PROBE, reference(2), pool.limits))


def test_an_engine_that_starts_while_the_learner_is_gone_waits_for_the_next_one() -> None:
    """Its weights were in the learner's memory: to ask for them until no attempt is left would cost the engine."""
    may_start = threading.Event()

    class Orphan(FakeEngine):
        async def start(self) -> None:
            while not may_start.is_set():
                await asyncio.sleep(0.01)
            await super().start()

        async def update_weights(self, update: WeightUpdate) -> None:
            if update.version == 1:
                raise EngineDead("the copy is gone")
            await super().update_weights(update)

    fleet = Fleet(None, Faults(die_after=5))

    def spawn(index: int) -> FakeEngine:
        made = fleet(index)
        assert isinstance(made, FakeEngine)
        made.__class__ = Orphan if len(fleet.made) > 2 else FakeEngine
        return made

    with pool_of(spawn, count=2, max_restarts=1, start_timeout_s=60.0) as pool:
        pool.wait()
        publish(pool, 1)
        pool.extend(make_groups(), 1)
        pool.withdraw()
        may_start.set()
        publish(pool, 2)
        stats = pool.stats()
        assert (stats.failures, stats.given_up, len(stats.engines)) == (1, 0, 2)
    assert ways(fleet.made[2])[-1] == (2, [0, 1])


class Forsaken(FakeEngine):
    """Cannot have version 1: whoever kept the copy is gone."""

    async def update_weights(self, update: WeightUpdate) -> None:
        if update.version == 1:
            raise CopyGone("the copy is gone")
        await super().update_weights(update)


@pytest.mark.parametrize("count", [1, 2])
def test_weights_that_are_gone_when_engines_are_to_take_them_are_no_fault_of_theirs(count: int) -> None:
    made: list[Forsaken] = []

    def spawn(_: int) -> Forsaken:
        made.append(Forsaken(seeded_script(32), logprob))
        return made[-1]

    with pool_of(spawn, count=count, max_restarts=0) as pool:
        pool.wait()
        for _ in range(3):
            with pytest.raises(CopyGone, match="the copy is gone"):
                publish(pool, 1)
            pool.withdraw()
        publish(pool, 2)
        assert pool.stats().failures == 0
        groups = pool.extend(make_groups(), 2)
        assert groups == undisturbed(make_groups(), 2)
    assert len(made) == count


def test_an_engine_that_starts_while_its_weights_are_gone_says_so_and_takes_the_next() -> None:
    """Sampling ends with the news, for the learner has to be looked at; its tokens are kept, and no engine is lost."""
    made: list[FakeEngine] = []

    def spawn(_: int) -> FakeEngine:
        kind, faults = (FakeEngine, Faults(die_after=9)) if not made else (Forsaken, None)
        made.append(kind(seeded_script(32), logprob, faults))
        return made[-1]

    drawn: list[Delta] = []
    with pool_of(spawn, max_restarts=1) as pool:
        publish(pool, 1)
        with pytest.raises(CopyGone, match="the copy is gone"):
            pool.extend(make_groups(), 1, drawn.extend)
        assert sum(len(delta.token_ids) for delta in drawn) == 9
        pool.withdraw()
        publish(pool, 2)
        stats = pool.stats()
        assert (stats.failures, stats.given_up, len(stats.engines)) == (1, 0, 1)
    assert len(made) == 2
    assert [each.version for each in made[1].updates] == [2]


@pytest.mark.parametrize("when", ["before", "during"])
def test_weights_that_go_while_an_engine_takes_them_are_of_no_interest_to_the_next_publish(when: str) -> None:
    """Their learner has died; nobody waits for that engine when the next learner publishes."""
    taking, gone = threading.Event(), threading.Event()

    class Late(FakeEngine):
        async def hold(self, version: int) -> None:
            if version == 1:
                taking.set()
                while not gone.is_set():
                    await asyncio.sleep(0.001)
                raise CopyGone("the copy is gone")

    made: list[FakeEngine] = []

    def spawn(_: int) -> FakeEngine:
        kind = Late if len(made) == 2 else FakeEngine
        made.append(kind(seeded_script(32), logprob, Faults(die_after=5) if len(made) == 1 else None, 4))
        return made[-1]

    with pool_of(spawn, count=2) as pool:
        pool.wait()
        publish(pool, 1)
        pool.extend(make_groups(), 1)
        assert taking.wait(30)
        pool.withdraw()
        if when == "before":
            gone.set()
        threading.Timer(0.2, gone.set).start()
        publish(pool, 2)
        assert (pool.version, pool.stats().failures, len(pool.stats().engines)) == (2, 1, 2)
    assert len(made) == 3


def test_an_engine_that_took_the_weights_before_they_were_withdrawn_lives_on() -> None:
    fleet = Fleet(None, Faults(die_after=5))
    with pool_of(fleet, count=2) as pool:
        pool.wait()
        publish(pool, 1)
        pool.extend(make_groups(), 1)
        pool.stats()
        pool.withdraw()
        publish(pool, 2)
        assert pool.stats().failures == 1
    assert len(fleet.made) == 3


def test_what_needs_weights_does_not_wait_for_withdrawn_ones() -> None:
    """Nobody could publish meanwhile, but for a stream, whose requests wait."""
    with pool_of(Fleet()) as pool:
        publish(pool, 1)
        pool.withdraw()
        for asked in (lambda: pool.extend(make_groups(), 0), lambda: pool.score(PROBE), pool.wait):
            with pytest.raises(RuntimeError, match="withdrawn; publish some first"):
                asked()
        with pool.stream() as stream:
            stream.publish(update(2), PROBE, reference(2))
        assert all(len(each.token_ids) for group in pool.extend(make_groups(), 2) for each in group.rollouts)


def test_weights_of_an_interrupted_first_publish_are_never_served() -> None:
    fleet = Fleet(Faults(lose_direct=True))
    with pool_of(fleet) as pool:
        pool.wait()
        with pytest.raises(ParityError):
            pool.publish(update(1), PROBE, shifted(reference(1), 0.5))
        pool.extend(make_groups(), 0)
        assert pool.stats().failures == 1, "an engine has what it was loaded with only once"
    assert not fleet.made[1].updates
