"""Every fault of an engine that the pool must survive, on scripted engines."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from factories import ids
from fake_engine import FakeEngine, Faults
from pool_kit import PROBE, Fleet, engine, make_groups, pool_of, reference, undisturbed, update

from rollout.engine import (
    AllEnginesDead,
    Delta,
    Engine,
    EngineError,
    ParityError,
)
from rollout.pool.pool import Pool
from rollout.types import Group, StopReason


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("die_after", [0, 1, 7, 30])
def test_a_dying_engine_loses_no_token_and_is_replaced(count: int, die_after: int) -> None:
    fleet = Fleet(Faults(die_after=die_after))
    heard: list[Delta] = []
    with pool_of(fleet, count=count) as pool:
        result = pool.extend(make_groups(), 0, heard.extend)
        stats = pool.stats()
    plain = undisturbed(make_groups())
    assert [[r.segments for r in g.rollouts] for g in result] == [[r.segments for r in g.rollouts] for g in plain]
    assert sum(len(d.token_ids) for d in heard) == sum(r.length for g in result for r in g.rollouts)
    assert sum(r.failures for g in result for r in g.rollouts) >= 1
    assert stats.failures == 1
    assert stats.given_up == 0


def test_a_replacement_gets_the_published_weights_and_the_probe_before_it_serves() -> None:
    fleet = Fleet(Faults(die_after=9))
    with pool_of(fleet) as pool:
        pool.publish(update(2), PROBE, reference(2))
        result = pool.extend(make_groups(), 2)
        assert {s.version for g in result for r in g.rollouts for s in r.segments} == {2}
        assert len(fleet.made) == 2
    assert result != make_groups()
    assert all(made.closed for made in fleet.made)


def test_a_stale_replacement_stops_the_run() -> None:
    fleet = Fleet(Faults(die_after=9), Faults(ignore_updates=True))
    with pool_of(fleet) as pool:
        pool.publish(update(2), PROBE, reference(2))
        with pytest.raises(ParityError):
            pool.extend(make_groups(), 2)


def test_a_stalled_engine_counts_as_dead() -> None:
    fleet = Fleet(Faults(stall_after=10))
    with pool_of(fleet) as pool:
        result = pool.extend(make_groups(), 0)
        assert "no token for" in pool._fleet.slots[0].last_error
    plain = undisturbed(make_groups())
    assert [[ids(r.token_ids) for r in g.rollouts] for g in result] == [
        [ids(r.token_ids) for r in g.rollouts] for g in plain
    ]


def test_all_engines_dead_is_a_named_error_after_as_many_starts_as_configured() -> None:
    made: list[int] = []

    def spawn(index: int) -> Engine:
        made.append(index)
        return engine(Faults(fail_start=True))

    with (
        pool_of(spawn, count=2, max_restarts=2) as pool,
        pytest.raises(AllEnginesDead, match="told not to start"),
    ):
        pool.extend(make_groups(), 0)
    assert sorted(made) == [0, 0, 0, 1, 1, 1]


def test_engines_that_die_before_their_first_token_are_given_up() -> None:
    heard: list[Delta] = []
    with (
        pool_of(lambda _: engine(Faults(die_after=0)), max_restarts=1) as pool,
        pytest.raises(AllEnginesDead, match="dead"),
    ):
        pool.extend(make_groups(), 0, heard.extend)
    assert all(delta.error for delta in heard)


@pytest.mark.parametrize("count", [1, 2])
def test_an_engine_that_dies_in_every_iteration_is_given_up(count: int) -> None:
    """It finishes requests in each life, so that restarts in a row alone would never end."""

    def spawn(index: int) -> Engine:
        return engine(Faults(die_after=50) if index == 0 else None)

    def one_iteration(pool: Pool, version: int) -> list[Group]:
        pool.publish(update(version), PROBE, reference(version))
        return pool.extend(make_groups(born=version), version)

    with pool_of(spawn, count=count, max_restarts=2) as pool:
        for version in range(3):
            one_iteration(pool, version)
        if count == 1:
            with pytest.raises(AllEnginesDead, match="iterations in a row"):
                one_iteration(pool, 3)
        else:
            assert all(group.rollouts for group in one_iteration(pool, 3))
            assert pool.stats().given_up == 1


def test_one_slot_given_up_leaves_the_others_working() -> None:
    def spawn(index: int) -> Engine:
        return engine(Faults(fail_start=True) if index == 0 else None)

    with pool_of(spawn, count=2, max_restarts=0) as pool:
        result = pool.extend(make_groups(), 0)
        assert pool.stats().given_up == 1
    assert result == undisturbed(make_groups())


def test_a_rollout_that_always_fails_is_aborted_and_keeps_its_tokens() -> None:
    bad = "000001.0/2"
    with pool_of(lambda _: engine(Faults(error_keys=frozenset({bad})))) as pool:
        result = pool.extend(make_groups(), 0)
    rollout = result[1].rollouts[2]
    assert (rollout.id, rollout.stop, rollout.failures, rollout.length) == (bad, StopReason.ABORTED, 3, 3)
    assert sum(r.stop is StopReason.ABORTED for g in result for r in g.rollouts) == 1


def test_score_survives_a_dead_engine() -> None:
    class Dying(FakeEngine):
        async def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
            raise EngineError("no")

    made: list[FakeEngine] = []

    def spawn(index: int) -> Engine:
        made.append(engine() if made else Dying())
        return made[-1]

    with pool_of(spawn) as pool:
        assert pool.score(PROBE) == reference(0)


def test_close_is_idempotent_and_bounded_even_while_an_engine_hangs() -> None:
    class Hanging(FakeEngine):
        async def start(self) -> None:
            import asyncio

            await asyncio.sleep(3600)

    pool = pool_of(lambda _: Hanging())
    pool.start()
    pool.close()  # else it hangs with the engine
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        pool.extend(make_groups(), 0)


def test_a_start_that_hangs_is_a_dead_engine() -> None:
    class Hanging(FakeEngine):
        async def start(self) -> None:
            import asyncio

            await asyncio.sleep(3600)

    with (
        pool_of(lambda _: Hanging(), start_timeout_s=0.2, max_restarts=0) as pool,
        pytest.raises(AllEnginesDead, match="start of engine 0 did not finish within"),
    ):
        pool.publish(update(1), PROBE, reference(1))
