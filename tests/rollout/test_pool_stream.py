"""Requests that come and go while scripted engines sample and take weights in flight."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest
from fake_engine import FakeEngine, Faults
from pool_kit import PROBE, reference, shifted, update
from stream_kit import (
    Heard,
    InFlight,
    Paced,
    all_moved,
    all_rest,
    publish,
    streaming,
    stretches,
    until,
)

from rollout.engine import AllEnginesDead, Delta, Engine, EngineDead, ParityError, WeightUpdate
from rollout.pool.board import News
from rollout.pool.pool import Pool
from rollout.pool.stream import drawn
from rollout.types import Segment

KINDS = [Paced, InFlight]
LAST = 20


@pytest.fixture(autouse=True)
def quick_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollout.pool.slot.BACKOFF_S", 1e-4)


def engines_up(pool: Pool, count: int) -> None:
    while len(pool.stats().engines) < count:
        time.sleep(0.001)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 3])
def test_no_token_is_lost_or_drawn_twice_over_many_publishes_and_deaths(kind: type[Paced], count: int) -> None:
    faults = [Faults(die_after=n) for n in (40, 75, 9, 130, 55, 20)]

    def spawn(_: int) -> Engine:
        return kind(faults.pop() if faults else None, free_from=LAST)

    heard, work = Heard(), stretches(12, 120)
    with streaming(spawn, count=count) as pool, pool.stream() as stream:
        stream.submit(work[:6])
        for version in range(1, LAST + 1):
            until(stream, heard, all_moved(heard, work[:6] if version < 5 else work, version - 1))
            if version == 4:
                stream.submit(work[6:])
            publish(stream, version)
            assert pool.version == version
        until(stream, heard, all_rest(heard, work))
        stats = pool.stats()
    heard.check(work)
    assert all(len(done.token_ids) == 120 for done in heard.done.values())
    assert {segment.version for segment in heard.done["r0"].segments} == set(range(LAST + 1))
    assert stats.failures == 6
    assert not stats.given_up


@pytest.mark.parametrize("kind", KINDS)
def test_taking_weights_in_flight_is_no_failure_and_keeps_the_order(kind: type[Paced]) -> None:
    made: list[Paced] = []
    submitted: list[list[str]] = []

    class Noting(kind):  # type: ignore[valid-type,misc]
        async def submit(self, requests: Any) -> None:
            submitted.append([request.key for request in requests])
            await super().submit(requests)

    def spawn(_: int) -> Engine:
        made.append(Noting(free_from=2))
        return made[-1]

    heard, work = Heard(), stretches(4, 20)
    with streaming(spawn) as pool, pool.stream() as stream:
        stream.submit(work)
        for version in (1, 2):
            until(stream, heard, all_moved(heard, work, version - 1))
            publish(stream, version)
        until(stream, heard, all_rest(heard, work))
    heard.check(work)
    names = [each.request.key for each in work]
    assert submitted == ([names] if kind is InFlight else [names] * 3)
    assert heard.failures() == 0
    assert not any(done.failures for done in heard.done.values())
    assert [each.version for each in made[0].updates] == [1, 2]


def test_other_engines_go_on_while_one_takes_weights() -> None:
    entered, free = threading.Event(), threading.Event()

    class Slow(Paced):
        async def hold(self, version: int) -> None:
            entered.set()
            while not free.is_set():
                await asyncio.sleep(0.001)

    def spawn(index: int) -> Engine:
        return Paced(quota=10**6) if index else Slow(quota=10**6)

    heard, work = Heard(), stretches(4, 400)
    with streaming(spawn, count=2) as pool, pool.stream() as stream:
        stream.submit(work)
        until(stream, heard, lambda: all(heard.tokens(each.request.key) for each in work))
        publishing = threading.Thread(target=publish, args=(stream, 1))
        publishing.start()
        assert entered.wait(30)
        assert pool.version == 0
        until(stream, heard, lambda: any(1 in heard.versions(each.request.key) for each in work))
        assert pool.version == 0, "not every engine has it yet"
        until(stream, heard, all_rest(heard, work))
        free.set()
        publishing.join(30)
        assert pool.version == 1
    heard.check(work)


def test_tokens_of_weights_that_fail_the_probe_never_leave_the_pool() -> None:
    drawn = threading.Event()

    class Wrong(InFlight):
        async def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
            before = self._mail.tokens
            while self._version and self._mail.tokens < before + 8:
                await asyncio.sleep(0.001)  # a few more are drawn before the probe is through
            drawn.set()
            return await super().score(sequences)

    heard, work = Heard(), stretches(4, 100)
    with streaming(lambda _: Wrong(quota=10)) as pool:
        with pool.stream() as stream:
            stream.submit(work)
            until(stream, heard, all_moved(heard, work, 0))
            with pytest.raises(ParityError):
                stream.publish(update(1), PROBE, shifted(reference(1), 0.5))
            with pytest.raises(ParityError):
                until(stream, heard, lambda: False)
        for item in stream.rest():
            heard.take(item)
        assert pool.version == 0
    assert drawn.is_set()
    heard.check(work)
    assert {version for each in work for version in heard.versions(each.request.key)} == {0}


def test_tokens_that_waited_for_the_probe_come_before_those_that_are_told_as_it_passes() -> None:
    class Racing(InFlight):
        """Has the probe's outcome and more tokens of the new weights at the same moment."""

        polls = 0

        async def start(self) -> None:
            await super().start()
            self.asked, self.through = asyncio.Event(), asyncio.Event()

        async def poll(self, wait_s: float) -> list[Delta]:
            self.polls += bool(self._version)
            if self.polls == 2:
                self.asked.set()
                await self.through.wait()
            return await super().poll(wait_s)

        async def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
            if self._version:
                await self.asked.wait()
                self.through.set()
            return await super().score(sequences)

    heard, work = Heard(), stretches(3, 60)
    with streaming(lambda _: Racing(quota=3, free_from=1)) as pool, pool.stream() as stream:
        stream.submit(work)
        until(stream, heard, all_moved(heard, work, 0))
        publish(stream, 1)
        until(stream, heard, all_rest(heard, work))
        assert pool.stats().failures == 0
    heard.check(work)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_is_left_while_another_thread_publishes_leaves_the_engines_to_others(kind: type[Paced]) -> None:
    entered, left = threading.Event(), threading.Event()

    class Slow(kind):  # type: ignore[valid-type,misc]
        async def hold(self, version: int) -> None:
            if version == 1:
                entered.set()
                while not left.is_set():
                    await asyncio.sleep(0.001)

    heard, work, more = Heard(), stretches(4, 200), [each.request for each in stretches(3, 30, "next")]
    with streaming(lambda _: Slow(quota=10**6)) as pool, ThreadPoolExecutor(1) as threads:
        with pool.stream() as stream:
            stream.submit(work)
            until(stream, heard, all_moved(heard, work, 0))
            publishing = threads.submit(publish, stream, 1)
            assert entered.wait(60)
        left.set()
        with pytest.raises(RuntimeError, match="the stream was left"):
            publishing.result(60)
        for item in stream.rest():
            heard.take(item)
        assert pool.version == 0
        pool.publish(update(2), PROBE, reference(2))
        assert {s.version for done in pool.generate(more) for s in done.segments} == {2}
        assert not stream.rest(), "its requests are nobody's"
        stream.drop([each.request.key for each in work])  # no fault: they are
        assert pool.stats().failures == 0
    heard.check(work)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", ["hangs", "dies"])
def test_an_engine_that_fails_while_it_takes_weights_is_replaced(kind: type[Paced], fault: str) -> None:
    made: list[FakeEngine] = []

    class Failing(kind):  # type: ignore[valid-type,misc]
        async def hold(self, version: int) -> None:
            if fault == "dies":
                self._dead = True
                raise EngineDead("killed")
            await asyncio.sleep(3600)

    def spawn(index: int) -> Engine:
        made.append(Failing(free_from=2) if not made else kind(free_from=2))
        return made[-1]

    heard, work = Heard(), stretches(6, 40)
    with streaming(spawn, count=2, call_timeout_s=0.2) as pool, pool.stream() as stream:
        stream.submit(work)
        for version in (1, 2):
            until(stream, heard, all_moved(heard, work, version - 1))
            publish(stream, version)
        until(stream, heard, all_rest(heard, work))
        assert pool.stats().failures == 1
    heard.check(work)


def test_an_engine_that_does_not_let_go_of_its_requests_is_replaced() -> None:
    made: list[FakeEngine] = []

    class Deaf(Paced):
        async def abort(self, keys: Sequence[str]) -> None:
            await asyncio.sleep(3600)

    def spawn(index: int) -> Engine:
        made.append(Paced(free_from=1) if made else Deaf())
        return made[-1]

    heard, work = Heard(), stretches(4, 30)
    with streaming(spawn, call_timeout_s=0.2) as pool, pool.stream() as stream:
        stream.submit(work)
        until(stream, heard, all_moved(heard, work, 0))
        publish(stream, 1)
        until(stream, heard, all_rest(heard, work))
        assert pool.stats().failures == 1
    heard.check(work)


def test_what_an_engine_tells_while_another_call_of_it_fails_is_kept() -> None:
    made: list[FakeEngine] = []

    class Talking(Paced):
        """Tells the last of its tokens only when it is asked to drop its requests, and never says that it did."""

        async def start(self) -> None:
            await super().start()
            self.asked = asyncio.Event()

        async def poll(self, wait_s: float) -> list[Delta]:
            deltas = await super().poll(wait_s)
            if deltas:
                return deltas
            await self.asked.wait()
            self.quota = 5
            return await super().poll(wait_s)

        async def abort(self, keys: Sequence[str]) -> None:
            self.asked.set()
            await asyncio.sleep(3600)

    def spawn(_: int) -> Engine:
        made.append(Paced(free_from=1) if made else Talking())
        return made[-1]

    heard, work = Heard(), stretches(4, 30)
    with streaming(spawn, call_timeout_s=0.2) as pool, pool.stream() as stream:
        stream.submit(work)
        until(stream, heard, lambda: all(len(heard.tokens(each.request.key)) == 3 for each in work))
        publish(stream, 1)
        until(stream, heard, all_rest(heard, work))
    heard.check(work)
    assert [heard.versions(each.request.key).count(0) for each in work] == [4] * 4


@pytest.mark.parametrize("stamp", [0, 7])
def test_an_engine_whose_tokens_lag_or_name_weights_that_it_was_not_given_is_replaced(stamp: int) -> None:
    made: list[FakeEngine] = []

    class Lagging(InFlight):
        async def poll(self, wait_s: float) -> list[Delta]:
            deltas = await super().poll(wait_s)
            if self._version == 1:
                for delta in deltas:
                    delta.version = stamp
            return deltas

    def spawn(index: int) -> Engine:
        made.append(InFlight(free_from=1) if made else Lagging())
        return made[-1]

    heard, work = Heard(), stretches(4, 30)
    more = stretches(2, 30, "later")
    with streaming(spawn) as pool, pool.stream() as stream:
        stream.submit(work)
        until(stream, heard, all_moved(heard, work, 0))
        publish(stream, 1)
        stream.submit(more)  # nothing of theirs can be of the old weights
        until(stream, heard, all_rest(heard, [*work, *more]))
        assert pool.stats().failures == 1
        assert f"engine drew tokens under version {stamp} while version" in pool._fleet.slots[0].last_error
    heard.check(more)


def test_engines_that_take_weights_together_all_take_part() -> None:
    made: list[FakeEngine] = []

    def spawn(index: int) -> Engine:
        made.append(Paced() if index else InFlight())
        return made[-1]

    heard, work = Heard(), stretches(6, 40)
    with streaming(spawn, count=3) as pool:
        pool.wait()
        with pool.stream() as stream:
            stream.submit(work)
            until(stream, heard, all_moved(heard, work, 0))
            direct = WeightUpdate(1, "nccl", {"size": 8, "direct": {"nccl": {}}})
            stream.publish(direct, PROBE, reference(1))
            until(stream, heard, all_moved(heard, work, 1))
    heard.check(work)
    assert [[each.payload["roster"] for each in fake.updates] for fake in made] == [[[0, 1, 2]]] * 3


def test_a_held_stream_leaves_the_engines_to_an_evaluation_even_one_that_fails() -> None:
    heard, work, questions = Heard(), stretches(4, 40), [each.request for each in stretches(3, 5, "eval")]
    with streaming(lambda _: Paced(quota=3, free_from=1), count=2) as pool, pool.stream() as stream:
        stream.submit(work)
        until(stream, heard, all_moved(heard, work, 0))
        for refused in (lambda: pool.generate(questions), lambda: pool.score(PROBE)):
            with pytest.raises(RuntimeError, match="open stream"):
                refused()
        with pytest.raises(RuntimeError, match="in flight"):
            pool.publish(update(1), PROBE, reference(1))
        publish(stream, 1)
        with stream.held():
            answers = pool.generate(questions)
            assert pool.score(PROBE) == reference(1)
        assert [done.key for done in answers] == [request.key for request in questions]
        assert {segment.version for done in answers for segment in done.segments} == {1}
        with pytest.raises(ZeroDivisionError), stream.held():
            stream.submit(more := stretches(2, 10, "late"))
            raise ZeroDivisionError
        until(stream, heard, all_rest(heard, [*work, *more]))
        assert pool.stats().failures == 0
    heard.check([*work, *more])
    assert heard.failures() == 0


def test_what_is_dropped_is_never_heard_of_again_and_its_name_is_free() -> None:
    heard, work = Heard(), stretches(6, 30)
    with streaming(lambda _: Paced(free_from=1), count=2, max_concurrency=2) as pool, pool.stream() as stream:
        stream.submit(work)
        until(stream, heard, lambda: bool(heard.tokens("r0")))
        with pytest.raises(ValueError, match="different keys"):
            stream.submit(work[:1])
        stream.drop(["r0", "r5", "unknown"])
        for item in stream.rest():
            heard.take(item)
        known = len(heard.tokens("r0"))
        again = stretches(1, 12)
        heard.deltas["r0"] = []
        stream.submit(again)
        publish(stream, 1)
        until(stream, heard, all_rest(heard, [*work[1:5], *again]))
        assert known < 30
        assert "r5" not in heard.done
        assert not list(stream.news(0))
    heard.check([*work[1:5], *again])
    assert heard.failures() == 0


class Interrupt(BaseException):
    """Like Ctrl-C: no ``Exception``."""


def test_an_interrupt_while_waiting_for_news_leaves_every_token_and_usable_engines() -> None:
    """The signal comes when the engine has nothing more to tell, so that the driver waits."""

    class Signalling(Paced):
        rang = False

        async def poll(self, wait_s: float) -> list[Delta]:
            deltas = await super().poll(wait_s)
            if not deltas and not self.rang:
                self.rang = True
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            return deltas

    def ring(number: int, frame: FrameType | None) -> None:
        raise Interrupt

    made: list[Signalling] = []

    def spawn(_: int) -> Engine:
        made.append(Signalling())
        return made[-1]

    heard, work = Heard(), stretches(4, 40)
    previous = signal.signal(signal.SIGUSR1, ring)
    try:
        with streaming(spawn) as pool:
            with pytest.raises(Interrupt), pool.stream() as stream:
                stream.submit(work)
                until(stream, heard, lambda: False)
            for item in stream.rest():
                heard.take(item)
            assert len(pool.generate([each.request for each in stretches(2, 3, "next")])) == 2
            assert pool.stats().failures == 0
    finally:
        signal.signal(signal.SIGUSR1, previous)
    heard.check(work)
    assert sum(len(heard.tokens(each.request.key)) for each in work) == 12
    assert len(made) == 1


def test_an_interrupt_in_a_publish_ends_the_stream_and_the_version_before_it_is_served_again() -> None:
    class Stuck(Paced):
        async def hold(self, version: int) -> None:
            if version == 2 and len(self.updates) == 2:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                await asyncio.sleep(3600)

    def ring(number: int, frame: FrameType | None) -> None:
        raise Interrupt

    heard, work = Heard(), stretches(6, 40)
    previous = signal.signal(signal.SIGUSR1, ring)
    try:
        with streaming(lambda index: Stuck() if index else Paced(), count=2) as pool:
            pool.wait()
            with pytest.raises(Interrupt), pool.stream() as stream:
                stream.submit(work)
                publish(stream, 1)
                until(stream, heard, all_moved(heard, work, 1))
                publish(stream, 2)
            for item in stream.rest():
                heard.take(item)
            assert pool.version == 1
            (done, *_) = pool.generate([each.request for each in stretches(4, 3, "next")])
            assert {segment.version for segment in done.segments} == {1}
            assert pool.stats().failures == 0
    finally:
        signal.signal(signal.SIGUSR1, previous)
    heard.check(work)


def test_an_engine_that_hangs_when_the_stream_ends_costs_seconds_and_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rollout.pool.stream.CLEAR_S", 0.1)
    made: list[FakeEngine] = []

    class Deaf(Paced):
        async def abort(self, keys: Sequence[str]) -> None:
            await asyncio.sleep(3600)

    def spawn(_: int) -> Engine:
        made.append(Paced(quota=10**6) if made else Deaf())
        return made[-1]

    heard, work = Heard(), stretches(2, 40)
    with streaming(spawn) as pool:
        with pool.stream() as stream:
            stream.submit(work)
            until(stream, heard, all_moved(heard, work, 0))
        for item in stream.rest():
            heard.take(item)
        assert all(len(done.token_ids) == 40 for done in pool.generate([each.request for each in work]))
        assert pool.stats().failures == 1
    heard.check(work)


def test_a_stream_without_engines_says_so() -> None:
    with (
        streaming(lambda _: Paced(Faults(fail_start=True)), count=2, max_restarts=0) as pool,
        pool.stream() as stream,
    ):
        stream.submit(stretches(1, 4))
        with pytest.raises(AllEnginesDead, match="told not to start"):
            list(stream.news(30.0))
        with pytest.raises(AllEnginesDead):
            stream.publish(update(1), PROBE, reference(1))


def test_the_last_engine_that_dies_under_a_publish_is_waited_for() -> None:
    made: list[FakeEngine] = []

    def spawn(_: int) -> Engine:
        made.append(Paced(None if made else Faults(fail_update=True), free_from=1))
        return made[-1]

    heard, work = Heard(), stretches(2, 10)
    with streaming(spawn) as pool, pool.stream() as stream:
        stream.submit(work)
        until(stream, heard, all_moved(heard, work, 0))
        publish(stream, 1)
        assert pool.stats().failures == 1
        until(stream, heard, all_rest(heard, work))
    heard.check(work)


def test_an_engine_that_is_being_started_is_not_waited_for_and_takes_the_newest_weights() -> None:
    may_start = threading.Event()
    made: list[FakeEngine] = []

    class Late(Paced):
        async def start(self) -> None:
            while not may_start.is_set():
                await asyncio.sleep(0.001)
            await super().start()

    def spawn(index: int) -> Engine:
        made.append(Late(free_from=3) if index else Paced(free_from=3))
        return made[-1]

    heard, work = Heard(), stretches(4, 30)
    with streaming(spawn, count=2) as pool, pool.stream() as stream:
        stream.submit(work)
        for version in (1, 2):
            until(stream, heard, lambda v=version: bool(heard.versions("r0")) and heard.versions("r0")[-1] == v - 1)
            publish(stream, version)
        may_start.set()
        engines_up(pool, 2)
        until(stream, heard, all_moved(heard, work, 2))
        publish(stream, 3)
        until(stream, heard, all_rest(heard, work))
    heard.check(work)
    late = next(fake for fake in made if isinstance(fake, Late))
    assert [each.version for each in late.updates] == [2, 3]


def test_an_engine_lost_under_each_publish_is_given_up_and_the_others_do_its_work() -> None:
    class Fragile(Paced):
        async def hold(self, version: int) -> None:
            if len(self.updates) > 1:
                raise EngineDead("killed")

    heard = Heard()
    with streaming(
        lambda index: Paced(free_from=0) if index else Fragile(free_from=0), count=2, max_restarts=1
    ) as pool:
        pool.wait()
        with pool.stream() as stream:
            for version in range(1, 5):
                publish(stream, version)
                engines_up(pool, 2 if version < 4 else 1)
                stream.submit(work := stretches(8, 4, f"v{version}."))
                until(stream, heard, all_rest(heard, work))
                heard.check(work)
            assert pool.stats().given_up == 1


def test_weights_withdrawn_under_a_stream_are_given_to_no_new_engine() -> None:
    """The engines that have them go on; their learner comes back with a publish."""
    made: list[FakeEngine] = []

    def spawn(_: int) -> Engine:
        made.append(Paced(Faults(die_after=30), free_from=1) if len(made) == 1 else Paced(quota=10**6))
        return made[-1]

    heard, work = Heard(), stretches(4, 40)
    with streaming(spawn, count=2) as pool:
        pool.wait()
        with pool.stream() as stream:
            publish(stream, 1)
            pool.withdraw()
            stream.submit(work)
            until(stream, heard, all_rest(heard, work))
            engines_up(pool, 2)
            publish(stream, 2)
            stream.submit(more := stretches(4, 10, "more"))
            until(stream, heard, all_rest(heard, more))
    heard.check([*work, *more])
    assert [each.version for each in made[2].updates] == [2]


def test_an_environment_answers_in_a_stream_and_its_fault_ends_it() -> None:
    from rollout.pool.board import Reply

    asked: list[tuple[str, int]] = []

    async def turns(key: str, added: Sequence[Segment], left: int) -> Reply:
        asked.append((key, sum(len(segment) for segment in added)))
        await asyncio.sleep(0.001)
        if key.startswith("bad"):
            raise ZeroDivisionError("environment")
        return Reply([7, 7]) if len([each for each in asked if each[0] == key]) == 1 else Reply()  # type: ignore[arg-type]

    heard, work = Heard(), stretches(3, 60, stop_token_ids=tuple(range(10)))
    with streaming(lambda _: Paced(quota=2, free_from=2)) as pool, pool.stream(turns) as stream:
        stream.submit(work)
        for version in (1, 2):
            publish(stream, version)
        until(stream, heard, all_rest(heard, work))
        for each in work:
            done = heard.done[each.request.key]
            assert done.stop is not None
            versions = [segment.version for segment in done.segments]
            assert versions == sorted(versions)
            assert [not segment.sampled for segment in done.segments].count(True) == 1
        stream.submit(stretches(1, 60, "bad", stop_token_ids=tuple(range(10))))
        with pytest.raises(ZeroDivisionError):
            until(stream, heard, lambda: False)


def test_a_pool_that_is_closed_under_a_stream_tells_whoever_waits_for_news() -> None:
    made: list[Paced] = []

    def spawn(_: int) -> Engine:
        made.append(Paced())
        return made[-1]

    heard, work = Heard(), stretches(2, 40)
    pool = streaming(spawn, count=2)
    with pool.stream() as stream:
        stream.submit(work)
        until(stream, heard, all_moved(heard, work, 0))
        closing = threading.Thread(target=pool.close)
        closing.start()
        with pytest.raises(RuntimeError, match="closed"):
            until(stream, heard, lambda: False)
        closing.join(30)
    assert all(fake.closed for fake in made)
    heard.check(work)


@pytest.mark.parametrize("recorded", [False, True])
def test_an_interrupt_in_the_midst_of_a_piece_leaves_no_gap(recorded: bool) -> None:
    """Whether the piece was recorded by then nobody can tell; what follows in its responses is drawn again."""

    class Stopped(BaseException):
        pass

    heard, work, pieces = Heard(), stretches(3, 40), list[News]()

    def take(item: News) -> None:
        pieces.append(item)
        if len(pieces) == 4:
            time.sleep(0.1)  # more comes meanwhile
            if recorded:
                heard.take(item)
            raise Stopped
        heard.take(item)

    with streaming(lambda _: Paced(free_from=0), count=1) as pool:
        with pytest.raises(Stopped):
            drawn(pool.stream(), work, take)
        again = pool.generate([each.request for each in work])
    heard.check(work)
    assert [len(done.token_ids) for done in again] == [40] * 3
