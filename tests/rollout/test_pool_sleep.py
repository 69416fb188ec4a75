"""A pool whose engines sleep while somebody else has their devices: weights, deaths and restarts around it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import Any

import pytest
from fake_engine import FakeEngine, Faults
from pool_kit import PROBE, Fleet, engine, make_groups, pool_of, reference, undisturbed, update

from rl.stop import Interrupted, Stopper
from rollout.engine import DEEP, LIGHT, AllEnginesDead, WeightUpdate
from rollout.pool.pool import Pool


def publish(pool: Pool, version: int) -> None:
    pool.publish(update(version), PROBE, reference(version))


def test_engines_that_slept_draw_what_others_draw() -> None:
    """Deeply: they lose their weights, and take the copy of the last publish before they serve."""
    fleet = Fleet(None, None)
    with pool_of(fleet, count=2) as pool:
        publish(pool, 3)
        pool.sleep()
        assert [each.rest.level for each in fleet.made] == [DEEP, DEEP]
        pool.wake()
        assert [each.rest.bare for each in fleet.made] == [True, True]
        assert pool.extend(make_groups(), 3) == undisturbed(make_groups(), 3)
    assert [[u.version for u in each.updates] for each in fleet.made] == [[3, 3], [3, 3]]
    assert len(fleet.made) == 2, "nobody was restarted"


def test_a_publish_after_sleep_brings_the_weights_once() -> None:
    fleet = Fleet()
    with pool_of(fleet) as pool:
        for version in (1, 2, 3):
            pool.sleep()
            pool.wake()
            publish(pool, version)
            assert pool.extend(make_groups(), version) == undisturbed(make_groups(), version)
    assert [u.version for u in fleet.made[0].updates] == [1, 2, 3]


def test_the_weights_that_an_engine_was_loaded_with_are_kept_until_they_are_measured() -> None:
    """Nobody else has them: the first sleep is light, and calibration finds them after it."""
    fleet = Fleet()
    with pool_of(fleet) as pool:
        pool.wait()
        pool.calibrate(PROBE, reference(0))
        pool.sleep()
        assert fleet.made[0].rest.level == LIGHT
        pool.wake()
        publish(pool, 1)
        assert pool._fleet.slots[0].loaded is not None
        assert pool._fleet.slots[0].loaded.largest == 0.0


def test_while_the_pool_sleeps_no_engine_is_used_or_started() -> None:
    fleet = Fleet()
    with pool_of(fleet) as pool:
        pool.sleep()
        for use in (pool.wait, lambda: pool.extend(make_groups(), 0), lambda: pool.score(PROBE)):
            with pytest.raises(RuntimeError, match="engine 0 sleeps; wake the pool"):
                use()
        pool.start()
        assert pool.stats().engines == ()
        assert fleet.made == [], "nobody may come up on a device that the learner has"
        pool.wake()
        publish(pool, 1)
        assert len(fleet.made) == 1


def test_statistics_are_told_in_sleep() -> None:
    with pool_of(Fleet()) as pool:
        publish(pool, 1)
        assert (pool.stats().sleep_s, pool.stats().wake_s) == (None, None)
        pool.sleep()
        stats = pool.stats()
        assert [each.version for each in stats.engines] == [1]
        assert stats.sleep_s is not None
        assert stats.sleep_s >= 0


@pytest.mark.parametrize("faults", [Faults(fail_sleep=True), Faults(die_asleep=True), Faults(fail_wake=True)])
def test_an_engine_that_dies_around_its_sleep_is_replaced_when_the_pool_is_awake(faults: Faults) -> None:
    fleet = Fleet(faults)
    made_while_asleep = []
    with pool_of(fleet, max_restarts=1) as pool:
        publish(pool, 1)
        pool.sleep()
        made_while_asleep.append(len(fleet.made))
        pool.stats()
        made_while_asleep.append(len(fleet.made))
        pool.wake()
        assert pool.extend(make_groups(), 1) == undisturbed(make_groups(), 1)
        assert pool.stats().failures == 1
    assert made_while_asleep == [1, 1]
    assert fleet.made[0].closed, "its process has left the device"
    assert [u.version for u in fleet.made[1].updates] == [1]


def test_a_hung_engine_is_ended_before_the_device_changes_hands() -> None:
    class Hung(FakeEngine):
        async def sleep(self, level: int) -> None:
            await asyncio.sleep(60)

    made: list[FakeEngine] = []

    def spawn(_: int) -> FakeEngine:
        made.append(Hung(engine().script, engine().logprob) if not made else engine())
        return made[-1]

    with pool_of(spawn, call_timeout_s=0.05) as pool:
        publish(pool, 1)
        pool.sleep()
        assert made[0].closed
        pool.wake()
        assert pool.extend(make_groups(), 1) == undisturbed(make_groups(), 1)


def test_engines_that_die_in_every_sleep_end_the_run() -> None:
    fleet = Fleet(*[Faults(die_asleep=True)] * 20)
    with pool_of(fleet, max_restarts=1) as pool:
        with pytest.raises(AllEnginesDead, match="all 1 rollout engines are dead"):
            for version in range(1, 10):
                publish(pool, version)
                pool.sleep()
                pool.wake()
        assert pool.stats().given_up == 1


def test_a_start_that_is_under_way_is_waited_for_before_the_pool_sleeps() -> None:
    began, go_on = threading.Event(), threading.Event()

    class Slow(FakeEngine):
        async def start(self) -> None:
            began.set()
            while not go_on.is_set():
                await asyncio.sleep(0.001)
            await super().start()

    slow = Slow()
    with pool_of(lambda _: slow, start_timeout_s=60.0) as pool:
        pool.start()
        assert began.wait(30)
        threading.Timer(0.05, go_on.set).start()
        pool.sleep()
        assert slow.rest.level == LIGHT


@pytest.mark.parametrize("steps", [["sleep", "wake"], ["wake"], ["sleep", "sleep", "wake"]])
@pytest.mark.parametrize("when", ["sleep", "wake"])
def test_what_a_signal_cuts_short_can_be_begun_again_or_taken_back(when: str, steps: list[str]) -> None:
    """Whether the engine sleeps then nobody knows, and nobody has to."""

    class Slow(FakeEngine):
        stopped = False

        async def stop(self, name: str) -> None:
            if name == when and not self.stopped:
                self.stopped = True
                os.kill(os.getpid(), signal.SIGTERM)
                await asyncio.sleep(60)

        async def sleep(self, level: int) -> None:
            await super().sleep(level)
            await self.stop("sleep")

        async def wake(self) -> None:
            await super().wake()
            await self.stop("wake")

    made: list[FakeEngine] = []

    def spawn(_: int) -> FakeEngine:
        made.append(Slow(engine().script, engine().logprob))
        return made[-1]

    with Stopper() as stopper, pool_of(spawn, call_timeout_s=60.0) as pool:
        publish(pool, 1)
        with pytest.raises(Interrupted), stopper.interruptible():
            pool.sleep()
            pool.wake()
        for step in steps:
            getattr(pool, step)()
        assert pool.extend(make_groups(), 1) == undisturbed(make_groups(), 1)
        assert len(made) == 1


def test_a_pool_whose_learner_died_in_its_sleep_waits_for_the_next_publish() -> None:
    fleet = Fleet()
    with pool_of(fleet) as pool:
        publish(pool, 4)
        pool.sleep()
        pool.withdraw()
        pool.wake()
        publish(pool, 4)
        assert pool.extend(make_groups(), 4) == undisturbed(make_groups(), 4)
        assert len(fleet.made) == 1


def test_whoever_uses_engines_claims_them() -> None:
    told: list[str] = []
    with pool_of(Fleet()) as pool:
        pool.claim = lambda: told.append("claimed")
        uses: list[Any] = [
            pool.wait,
            lambda: publish(pool, 1),
            lambda: pool.extend(make_groups(), 1),
            lambda: pool.score(PROBE),
        ]
        for number, use in enumerate(uses, 1):
            use()
            assert len(told) == number
        pool.stats(), pool.sleep(), pool.wake(), pool.withdraw(), pool.reconfigure(pool.rollout, 4)
        assert len(told) == len(uses)


def test_an_engine_without_weights_refuses_to_draw() -> None:
    async def asked() -> None:
        one = engine()
        await one.start()
        await one.update_weights(WeightUpdate(1, "local", {}))
        await one.sleep(DEEP)
        with pytest.raises(ValueError, match="sleeps: wake it first"):
            await one.update_weights(WeightUpdate(2, "local", {}))
        await one.wake()
        with pytest.raises(ValueError, match="without weights: update them"):
            await one.score(PROBE)
        await one.update_weights(WeightUpdate(2, "local", {}))
        assert await one.score(PROBE) == reference(2)

    asyncio.run(asked())
