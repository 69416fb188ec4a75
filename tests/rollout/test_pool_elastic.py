"""Engines that join and leave while scripted engines work."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
from fake_engine import FakeEngine, Faults
from hypothesis import given, settings
from hypothesis import strategies as st
from pool_kit import PROBE, reference, shifted, update
from stream_kit import Heard, InFlight, Paced, all_moved, all_rest, publish, streaming, stretches, until

from rollout.engine import AllEnginesDead, Delta, Engine, ParityError, WeightUpdate
from rollout.partial import Stretch
from rollout.pool.pool import Pool
from rollout.pool.stream import Stream


@pytest.fixture(autouse=True)
def quick_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollout.pool.slot.BACKOFF_S", 1e-4)


class Made:
    """Spawns engines of one kind, and keeps them by slot."""

    def __init__(self, kind: type[Paced] = Paced, free_from: int = 10**9) -> None:
        self.kind, self.free_from = kind, free_from
        self.by_slot: dict[int, list[Paced]] = {}

    def __call__(self, index: int) -> Engine:
        made = self.kind(free_from=self.free_from)
        self.by_slot.setdefault(index, []).append(made)
        return made


def engines_up(pool: Pool, count: int) -> None:
    while len(pool.stats().engines) < count:
        time.sleep(0.001)


@pytest.mark.parametrize("kind", [Paced, InFlight])
def test_an_engine_that_joins_a_stream_takes_the_newest_weights_and_its_share(kind: type[Paced]) -> None:
    made = Made(kind, free_from=3)
    heard, work = Heard(), stretches(8, 30)
    with streaming(made, count=1) as pool, pool.stream() as stream:
        stream.submit(work)
        publish(stream, 1)
        until(stream, heard, all_moved(heard, work, 1))
        assert pool.join() == 1
        engines_up(pool, 2)
        publish(stream, 2)
        until(stream, heard, all_moved(heard, work, 2))
        publish(stream, 3)
        until(stream, heard, all_rest(heard, work))
        stats = pool.stats()
        assert (pool.members, stats.failures, stats.given_up) == ([0, 1], 0, 0)
    heard.check(work)
    assert heard.failures() == 0
    (newcomer,) = made.by_slot[1]
    assert [each.version for each in newcomer.updates] == [1, 2, 3]
    assert newcomer._mail.tokens > 40, "half of what one engine had all of"


@pytest.mark.parametrize("kind", [Paced, InFlight])
def test_an_engine_that_leaves_gives_its_requests_to_the_others_and_is_no_failure(kind: type[Paced]) -> None:
    made = Made(kind, free_from=2)
    heard, work = Heard(), stretches(9, 30)
    with streaming(made, count=3) as pool:
        pool.wait()
        with pool.stream() as stream:
            stream.submit(work)
            until(stream, heard, all_moved(heard, work, 0))
            pool.leave(1)
            assert made.by_slot[1][0].closed
            publish(stream, 1)
            until(stream, heard, all_moved(heard, work, 1))
            pool.leave(0)
            publish(stream, 2)
            until(stream, heard, all_rest(heard, work))
            stats = pool.stats()
            assert (pool.members, len(stats.engines), stats.failures) == ([2], 1, 0)
        with pytest.raises(ValueError, match="no engine 1"):
            pool.leave(1)
        with pytest.raises(ValueError, match="only one"):
            pool.leave(2)
    heard.check(work)
    assert heard.failures() == 0
    assert {len(lives) for lives in made.by_slot.values()} == {1}


def test_when_the_last_engine_that_works_leaves_whoever_waits_is_told() -> None:
    def spawn(index: int) -> Engine:
        return Paced() if index else Paced(Faults(fail_start=True))

    heard, work = Heard(), stretches(2, 20)
    with streaming(spawn, count=2, max_restarts=0) as pool, pool.stream() as stream:
        stream.submit(work)
        until(stream, heard, all_moved(heard, work, 0))
        while not pool.stats().given_up:
            time.sleep(0.001)
        pool.leave(1)
        with pytest.raises(AllEnginesDead, match="told not to start"):
            until(stream, heard, lambda: False)
    heard.check(work)


def test_an_engine_that_leaves_while_others_take_weights_waits_its_turn() -> None:
    entered, free = threading.Event(), threading.Event()

    class Slow(Paced):
        async def hold(self, version: int) -> None:
            entered.set()
            while not free.is_set():
                await asyncio.sleep(0.001)

    heard, work = Heard(), stretches(4, 20)
    with streaming(lambda index: Paced(free_from=1) if index else Slow(free_from=1), count=2) as pool:
        pool.wait()
        with pool.stream() as stream:
            stream.submit(work)
            until(stream, heard, all_moved(heard, work, 0))
            publishing = threading.Thread(target=publish, args=(stream, 1))
            leaving = threading.Thread(target=pool.leave, args=(0,))
            publishing.start()
            assert entered.wait(30)
            leaving.start()
            assert pool.join(lambda _: Paced(free_from=1)) == 2
            free.set()
            publishing.join(30)
            leaving.join(30)
            until(stream, heard, all_rest(heard, work))
            assert (pool.members, pool.version, pool.stats().failures) == ([1, 2], 1, 0)
    heard.check(work)


@pytest.mark.parametrize("flight", [False, True], ids=["between calls", "in flight"])
def test_a_publish_that_waits_for_engines_that_cannot_start_goes_on_when_they_leave(flight: bool) -> None:
    """As when their nodes are gone: the first publish after that waits for both."""

    class Stuck(Paced):
        async def start(self) -> None:
            await asyncio.sleep(3600)

    spawned: dict[int, int] = {}

    def spawn(index: int) -> Engine:
        spawned[index] = spawned.get(index, 0) + 1
        return Stuck() if index and spawned[index] > 1 else Paced(free_from=1)

    heard, work = Heard(), stretches(4, 20)
    with streaming(spawn, count=3) as pool:
        pool.wait()
        for slot in pool._fleet.slots[1:]:
            slot.life.engine._dead = True  # type: ignore[union-attr]
        with pool.stream() if flight else nullcontext() as stream:
            if stream is not None:
                stream.submit(work)
            publishing = threading.Thread(target=lambda: publish(stream or pool, 1))  # type: ignore[arg-type]
            publishing.start()
            while spawned != {0: 1, 1: 2, 2: 2}:
                time.sleep(0.001)
            pool.leave(1, 2)
            publishing.join(30)
            assert not publishing.is_alive()
            assert (pool.members, pool.version, pool.stats().failures) == ([0], 1, 2)
            if stream is not None:
                until(stream, heard, all_rest(heard, work))
    heard.check(work)


def test_a_publish_that_no_engine_is_left_for_takes_the_first_that_joins() -> None:
    class Stuck(Paced):
        async def start(self) -> None:
            await asyncio.sleep(3600)

    made: list[Engine] = []

    def spawn(index: int) -> Engine:
        made.append(Stuck() if made else Paced())
        return made[-1]

    heard, work = Heard(), stretches(2, 20)
    with streaming(spawn, count=1) as pool, pool.stream() as stream:
        stream.submit(work)
        until(stream, heard, all_moved(heard, work, 0))
        made[0]._dead = True  # type: ignore[attr-defined]
        while len(made) < 2:
            time.sleep(0.001)
        publishing = threading.Thread(target=publish, args=(stream, 1))
        publishing.start()
        pool.join(lambda _: Paced(free_from=1))
        publishing.join(30)
        assert not publishing.is_alive()
        until(stream, heard, all_rest(heard, work))
    heard.check(work)


def test_engines_that_are_found_dead_together_are_started_again() -> None:
    """Neither their requests nor new ones meet a pool without an engine that lives."""
    made: list[FakeEngine] = []

    class Hanging(InFlight):
        async def poll(self, wait_s: float) -> list[Delta]:
            if self._dead:
                await asyncio.sleep(3600)
            return await super().poll(wait_s)

        async def close(self) -> None:
            await asyncio.sleep(0.3)
            await super().close()

    def spawn(_: int) -> Engine:
        made.append(Hanging(free_from=1))
        return made[-1]

    heard, work, more = Heard(), stretches(4, 20), stretches(2, 20, "later")
    with streaming(spawn, count=2) as pool:
        pool.wait()
        with pool.stream() as stream:
            stream.submit(work)
            until(stream, heard, all_moved(heard, work, 0))
            for fake in made[:2]:
                fake._dead = True
            direct = WeightUpdate(1, "nccl", {"size": 8, "direct": {"nccl": {}}})
            publishing = threading.Thread(target=stream.publish, args=(direct, PROBE, reference(1)))
            publishing.start()
            while pool.stats().failures < 2:
                time.sleep(0.001)
            stream.submit(more)
            publishing.join(60)
            assert not publishing.is_alive()
            until(stream, heard, all_rest(heard, [*work, *more]))
    heard.check([*work, *more])
    assert len(made) == 4


def test_an_engine_that_has_left_keeps_no_weights() -> None:
    class Payload(dict[str, int]):
        """Can be watched."""

    with streaming(Made(free_from=0), count=2) as pool:
        payload = Payload(size=8)
        watched = weakref.ref(payload)
        pool.publish(WeightUpdate(1, "local", payload), PROBE, reference(1))
        del payload
        pool.leave(1)
        pool.publish(update(2), PROBE, reference(2))
        for fake in pool._fleet.slots:
            fake.life.engine.updates.clear()  # type: ignore[union-attr]
        gc.collect()
        assert watched() is None


def test_engines_join_and_leave_between_calls_and_in_the_middle_of_one() -> None:
    made = Made(free_from=0)
    with streaming(made, count=1) as pool:
        requests = [each.request for each in stretches(12, 20)]
        plain = pool.generate(requests)
        pool.join()
        pool.wait()
        changes: Iterator[None] = iter([None])

        def swap(_: object) -> None:
            if next(changes, 0) is None:
                pool.leave(0)
                pool.join()

        again = pool.generate(requests, on_progress=swap)
        pool.publish(update(1), PROBE, reference(1))
        assert (pool.members, pool.version, pool.stats().failures) == ([1, 2], 1, 0)
    assert [done.token_ids.tolist() for done in again] == [done.token_ids.tolist() for done in plain]
    assert not any(done.failures for done in again)


def test_failures_of_engines_that_have_left_are_still_counted() -> None:
    def spawn(index: int) -> Engine:
        return FakeEngine(faults=Faults(fail_start=True)) if index else Paced(free_from=0)

    with streaming(spawn, count=2, max_restarts=1) as pool:
        pool.wait()
        assert (pool.stats().failures, pool.stats().given_up) == (2, 1)
        pool.leave(1)
        assert (pool.stats().failures, pool.stats().given_up) == (2, 1)


def test_an_engine_that_joins_and_disagrees_with_the_learner_ends_the_run() -> None:
    class Off(Paced):
        async def score(self, sequences: object) -> list[list[float]]:
            return shifted(await super().score(sequences), 0.5)  # type: ignore[arg-type]

    heard, work = Heard(), stretches(2, 20)
    with streaming(lambda index: Off() if index else Paced(), count=1) as pool, pool.stream() as stream:
        stream.submit(work)
        publish(stream, 1)
        pool.join()
        with pytest.raises(ParityError):
            until(stream, heard, lambda: False)


class World:
    """A stream over engines of both kinds, with all that may happen to it."""

    def __init__(self, pool: Pool, stream: Stream, made: list[Paced]) -> None:
        self.pool, self.stream, self.made = pool, stream, made
        self.heard, self.work, self.dropped = Heard(), list[Stretch](), set[str]()
        self.evaluations = 0

    def alive(self) -> list[Stretch]:
        return [each for each in self.work if each.request.key not in self.dropped]

    def submit(self, number: int) -> None:
        fresh = stretches(1 + number % 3, 1 + number, f"{len(self.work)}.")
        self.stream.submit(fresh)
        self.work += fresh

    def move(self, _: int) -> None:
        until(self.stream, self.heard, all_moved(self.heard, self.alive(), self.pool.version))

    def publish(self, _: int) -> None:
        publish(self.stream, self.pool.version + 1)

    def hold(self, number: int) -> None:
        self.evaluations += 1
        with self.stream.held():
            questions = stretches(1, 1 + number % 3, f"eval{self.evaluations}.")
            (done,) = self.pool.generate([each.request for each in questions])
            assert {segment.version for segment in done.segments} == {self.pool.version}

    def kill(self, number: int) -> None:
        self.made[number % len(self.made)]._dead = True

    def join(self, _: int) -> None:
        self.pool.join()

    def leave(self, number: int) -> None:
        if len(self.pool.members) > 1:
            self.pool.leave(self.pool.members[number % len(self.pool.members)])

    def drop(self, number: int) -> None:
        if self.work:
            key = self.work[number % len(self.work)].request.key
            self.stream.drop([key])
            self.dropped.add(key)

    def end(self) -> None:
        for each in self.made:
            each.quota = 10**6
        until(self.stream, self.heard, all_rest(self.heard, self.alive()))
        self.heard.check(self.work)
        for each in self.alive():
            assert len(self.heard.tokens(each.request.key)) == each.request.max_new_tokens


HAPPENINGS = ["submit", "submit", "move", "publish", "publish", "hold", "kill", "join", "leave", "drop"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(HAPPENINGS), st.integers(0, 20)), max_size=25), st.integers(1, 3))
def test_whatever_happens_in_whatever_order_every_token_is_there_once(
    events: list[tuple[str, int]], engines: int
) -> None:
    made: list[Paced] = []

    def spawn(_: int) -> Engine:
        made.append((InFlight if len(made) % 2 else Paced)())
        return made[-1]

    with streaming(spawn, count=engines) as pool, pool.stream() as stream:
        world = World(pool, stream, made)
        world.submit(9)
        for what, number in events:
            getattr(world, what)(number)
        Paced.default_quota = 10**6
        try:
            world.end()
        finally:
            Paced.default_quota = 3
