"""The pool and every fault it must survive, on scripted engines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from factories import problem

from rollout.config import EngineConfig, RolloutConfig
from rollout.engine import (
    AllEnginesDead,
    Delta,
    Engine,
    EngineError,
    ParityError,
    Request,
    Sampling,
    WeightUpdate,
)
from rollout.fake_engine import FakeEngine, Faults, seeded_script
from rollout.pool import Pool
from rollout.types import Group, Rollout, StopReason

EOS = 31
ROLLOUT = RolloutConfig(segment_tokens=12, max_tokens=30, max_failures=3, repetition=None)


def config(**changes: Any) -> EngineConfig:
    base = {"kind": "fake", "max_model_len": 64, "stall_timeout_s": 0.5, "call_timeout_s": 2.0, "start_timeout_s": 2.0}
    return EngineConfig(**{**base, **changes})


def logprob(before: Sequence[int], token: int, version: int) -> float:
    return -1.0 - 0.5 * version - 0.001 * ((len(before) * 7 + token) % 50)


def engine(faults: Faults | None = None, chunk: int = 4) -> FakeEngine:
    return FakeEngine(seeded_script(32), logprob, faults, chunk)


def make_groups(count: int = 3, k: int = 4, born: int = 0) -> list[Group]:
    return [
        Group(f"{g:06d}.0", problem(g), tuple(Rollout(f"{g:06d}.0/{j}", (1, 2, g)) for j in range(k)), born)
        for g in range(count)
    ]


def update(version: int) -> WeightUpdate:
    return WeightUpdate(version, "local", {"size": 8})


PROBE = [[1, 2, 3, 4], [5, 6]]


def reference(version: int) -> list[list[float]]:
    return [[logprob(s[:t], s[t], version) for t in range(1, len(s))] for s in PROBE]


def shifted(scores: list[list[float]], nats: float) -> list[list[float]]:
    return [[score + nats for score in row] for row in scores]


class Fleet:
    """Spawns engines in a given order of faults; keeps every engine made."""

    def __init__(self, *faults: Faults | None) -> None:
        self.faults = list(faults)
        self.made: list[FakeEngine] = []

    def __call__(self, index: int) -> Engine:
        self.made.append(engine(self.faults.pop(0) if self.faults else None))
        return self.made[-1]


def pool_of(spawn: Callable[[int], Engine], **changes: Any) -> Pool:
    return Pool(spawn, config(**changes), ROLLOUT, stop_token_ids=(EOS,), seed=3)


def undisturbed(groups: list[Group], version: int = 0) -> list[Group]:
    with pool_of(lambda _: engine()) as pool:
        if version:
            pool.publish(update(version), PROBE, reference(version))
        return pool.extend(groups, version)


def test_extend_grows_each_rollout_by_one_stretch_and_journals_everything() -> None:
    heard: list[Delta] = []
    main = threading.current_thread()

    def listen(deltas: list[Delta]) -> None:
        assert threading.current_thread() is main
        heard.extend(deltas)

    groups = make_groups()
    with pool_of(lambda _: engine()) as pool:
        result = pool.extend(groups, 0, listen)
        assert pool.stats().engines[0].requests == 12
    tokens: dict[str, tuple[int, ...]] = {}
    for delta in heard:
        tokens[delta.key] = tokens.get(delta.key, ()) + delta.token_ids
    for before, after in zip(groups, result, strict=True):
        assert before.id == after.id
        for rollout in after.rollouts:
            assert rollout.token_ids == tokens[rollout.id]
            ended = rollout.token_ids[-1] == EOS
            assert (rollout.stop is StopReason.EOS) == ended
            assert ended or rollout.length == ROLLOUT.segment_tokens
            assert EOS not in rollout.token_ids[:-1]


def test_versions_over_three_iterations_and_the_total_cap() -> None:
    groups = make_groups()
    with pool_of(lambda _: engine()) as pool:
        for version in (1, 2, 3):
            report = pool.publish(update(version), PROBE, reference(version))
            assert (report.version, report.bytes, report.max_gap) == (version, 8, 0.0)
            groups = pool.extend(groups, version)
            again = pool.extend(groups, version)
            assert again == groups, "a stretch is given once per version"
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    assert all(rollout.finished for rollout in rollouts)
    assert {rollout.stop for rollout in rollouts} == {StopReason.EOS, StopReason.LENGTH}
    longest = next(rollout for rollout in rollouts if rollout.stop is StopReason.LENGTH)
    assert [(s.version, len(s)) for s in longest.segments] == [(1, 12), (2, 12), (3, 6)]
    assert all(r.logprobs[i] <= -1.0 - 0.5 * v for r in rollouts for i, v in enumerate(r.versions))


def test_partial_equals_full_when_the_budget_is_infinite() -> None:
    full = ROLLOUT.model_copy(update={"segment_tokens": ROLLOUT.max_tokens})
    with Pool(lambda _: engine(), config(), full, (EOS,), seed=3) as pool:
        whole = pool.extend(make_groups(), 0)
    groups = make_groups()
    with pool_of(lambda _: engine()) as pool:
        for version in (1, 2, 3):
            pool.publish(update(version), [], [])
            groups = pool.extend(groups, version)
    stitched = [[(r.token_ids, r.stop) for r in group.rollouts] for group in groups]
    assert stitched == [[(r.token_ids, r.stop) for r in group.rollouts] for group in whole]


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


def test_parity_error_names_both_numbers() -> None:
    with pool_of(lambda _: engine(Faults(ignore_updates=True)), count=2) as pool:
        pool.publish(update(0), PROBE, reference(0))
        with pytest.raises(ParityError, match=r"1 nats apart on average \(bound 0\.002\).*-1\.0\d+ against -2\.0\d+"):
            pool.publish(update(2), PROBE, reference(2))


def test_each_engine_is_measured_on_the_weights_that_it_was_loaded_with() -> None:
    """An engine in a coarse type, here one nat off everywhere, and its replacement after a death."""
    off = Faults(die_after=9)
    fleet = Fleet(off)
    coarse = config(dtype="bfloat16")
    with Pool(fleet, coarse, ROLLOUT, (EOS,)) as pool:
        pool.calibrate(PROBE, shifted(reference(0), 0.04))
        assert pool.publish(update(2), PROBE, shifted(reference(2), 0.1)).mean_gap == pytest.approx(0.1)
        pool.extend(make_groups(), 2)
        assert len(fleet.made) == 2
        with pytest.raises(ParityError, match=r"On the weights that both loaded it was 0\.04"):
            pool.publish(update(3), PROBE, shifted(reference(3), 0.13))


def test_an_engine_that_disagrees_as_loaded_is_told_apart_from_a_failed_transfer() -> None:
    with pool_of(lambda _: engine()) as pool:
        pool.calibrate(PROBE, shifted(reference(0), 0.5))
        with pytest.raises(ParityError, match=r"both loaded from the same files.*Nothing was sent yet"):
            pool.publish(update(1), PROBE, reference(1))


def test_nan_is_a_parity_error() -> None:
    with pool_of(lambda _: FakeEngine(logprob=lambda *_: float("nan"))) as pool, pytest.raises(ParityError):
        pool.publish(update(1), PROBE, reference(1))


def test_a_stalled_engine_counts_as_dead() -> None:
    fleet = Fleet(Faults(stall_after=10))
    with pool_of(fleet) as pool:
        result = pool.extend(make_groups(), 0)
        assert "no token for" in pool._slots[0].last_error
    plain = undisturbed(make_groups())
    assert [[r.token_ids for r in g.rollouts] for g in result] == [[r.token_ids for r in g.rollouts] for g in plain]


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


def test_wrong_version_is_never_accepted() -> None:
    class Liar(FakeEngine):
        async def poll(self, wait_s: float) -> list[Delta]:
            return [
                Delta(d.key, d.token_ids, d.logprobs, 9, d.done, d.stop, d.error) for d in await super().poll(wait_s)
            ]

    heard: list[Delta] = []
    with (
        pool_of(lambda _: Liar(), max_restarts=0) as pool,
        pytest.raises(AllEnginesDead, match="version 9 while version 0"),
    ):
        pool.extend(make_groups(), 0, heard.extend)
    assert not any(delta.token_ids for delta in heard)


def test_age_cap_force_finishes_without_sampling() -> None:
    config_ = ROLLOUT.model_copy(update={"max_age": 1})
    with Pool(lambda _: engine(), config(), config_, (EOS,)) as pool:
        pool.publish(update(2), PROBE, reference(2))
        old, new = pool.extend([*make_groups(1, born=0), *make_groups(2, born=1)[1:]], 2)
    assert {r.stop for r in old.rollouts} == {StopReason.ABORTED}
    assert not any(r.stop is StopReason.ABORTED for r in new.rollouts)


def test_a_reconfigured_pool_draws_under_the_new_limits_and_seed_with_the_same_engines() -> None:
    fleet, changed = Fleet(), ROLLOUT.model_copy(update={"segment_tokens": 6, "max_tokens": 6})
    with pool_of(fleet) as pool:
        before = pool.extend(make_groups(), 0)
        pool.reconfigure(changed, seed=4)
        after = pool.extend(make_groups(), 0)
    with Pool(Fleet(), config(), changed, stop_token_ids=(EOS,), seed=4) as fresh:
        assert after == fresh.extend(make_groups(), 0)
    assert max(rollout.length for group in before for rollout in group.rollouts) > 6
    assert max(rollout.length for group in after for rollout in group.rollouts) == 6
    assert len(fleet.made) == 1


def test_extend_under_an_unpublished_version_is_refused() -> None:
    with pool_of(lambda _: engine()) as pool, pytest.raises(ValueError, match=r"version 4.*version 0"):
        pool.extend(make_groups(), 4)


def requests(count: int, tokens: int, **sampling: Any) -> list[Request]:
    return [Request(f"q{i}", (1, i), tokens, Sampling(**sampling), seed=i) for i in range(count)]


def test_generate_keeps_order_and_balances() -> None:
    fleet = Fleet()
    with pool_of(fleet, count=3, max_concurrency=8) as pool:
        done = pool.generate(requests(100, 5))
        stats = pool.stats()
    assert [c.key for c in done] == [f"q{i}" for i in range(100)]
    assert all(len(c.token_ids) == len(c.logprobs) == 5 and c.stop is None and not c.error for c in done)
    assert sorted(s.requests for s in stats.engines) > [20, 20, 20]
    assert pool.version == 0


def test_duplicate_keys_are_refused_and_an_empty_call_starts_nothing() -> None:
    fleet = Fleet()
    with pool_of(fleet) as pool:
        assert pool.generate([]) == []
        assert not fleet.made
        with pytest.raises(ValueError, match="different keys"):
            pool.generate(requests(2, 3)[:1] * 2)


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


class Interrupt(BaseException):
    """Like Ctrl-C: no ``Exception``."""


def test_an_interrupt_drops_the_work_and_the_pool_goes_on() -> None:
    groups = make_groups()
    heard: list[Delta] = []
    fleet = Fleet()

    def listen(deltas: list[Delta]) -> None:
        heard.extend(deltas)
        if len(heard) <= 12:
            raise Interrupt

    with pool_of(fleet) as pool:
        with pytest.raises(Interrupt):
            pool.extend(groups, 0, listen)
        from rollout.partial import fold

        assert not any(delta.error for delta in heard)
        kept = fold(groups, heard, 0, ROLLOUT, 64)
        assert any(r.length for g in kept for r in g.rollouts)
        resumed = pool.extend(kept, 0)
        assert len(fleet.made) == 1, "the engine survived the interrupt"
    plain = undisturbed(make_groups())
    assert [[r.token_ids for r in g.rollouts] for g in resumed] == [[r.token_ids for r in g.rollouts] for g in plain]


def test_a_failing_journal_stops_the_call_with_its_own_error() -> None:
    def listen(deltas: list[Delta]) -> None:
        raise OSError(28, "No space left on device")

    with pool_of(lambda _: engine()) as pool:
        with pytest.raises(OSError, match="No space"):
            pool.extend(make_groups(), 0, listen)
        assert pool.extend(make_groups(), 0) == undisturbed(make_groups())


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


def test_pool_imports_neither_ray_nor_vllm_nor_torch() -> None:
    import subprocess
    import sys

    code = "import rollout.pool, sys; print(sorted({'ray', 'torch', 'vllm', 'transformers'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
