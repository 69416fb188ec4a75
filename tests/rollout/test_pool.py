"""The pool on scripted engines: what it draws, publishes, refuses and leaves alone."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from factories import ids
from fake_engine import FakeEngine, Faults
from pool_kit import (
    EOS,
    PROBE,
    ROLLOUT,
    Fleet,
    config,
    engine,
    make_groups,
    pool_of,
    reference,
    shifted,
    undisturbed,
    update,
)

from rollout.engine import (
    AllEnginesDead,
    Delta,
    ParityError,
    Request,
    Sampling,
)
from rollout.pool.pool import Pool
from rollout.types import Prompt, StopReason


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
        tokens[delta.key] = tokens.get(delta.key, ()) + ids(delta.token_ids)
    for before, after in zip(groups, result, strict=True):
        assert before.id == after.id
        for rollout in after.rollouts:
            assert ids(rollout.token_ids) == tokens[rollout.id]
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
    stitched = [[(ids(r.token_ids), r.stop) for r in group.rollouts] for group in groups]
    assert stitched == [[(ids(r.token_ids), r.stop) for r in group.rollouts] for group in whole]


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
    assert not any(len(delta.token_ids) for delta in heard)


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
    return [Request(f"q{i}", Prompt((1, i)), tokens, Sampling(**sampling), seed=i) for i in range(count)]


def test_generate_keeps_order_and_balances() -> None:
    fleet = Fleet()
    with pool_of(fleet, count=3, max_concurrency=8) as pool:
        done = pool.generate(requests(100, 5))
        stats = pool.stats()
    assert [c.key for c in done] == [f"q{i}" for i in range(100)]
    assert all(len(c.token_ids) == len(c.segments[0].logprobs) == 5 and c.stop is None and not c.error for c in done)
    assert sorted(s.requests for s in stats.engines) > [20, 20, 20]
    assert pool.version == 0


def test_duplicate_keys_are_refused_and_an_empty_call_starts_nothing() -> None:
    fleet = Fleet()
    with pool_of(fleet) as pool:
        assert pool.generate([]) == []
        assert not fleet.made
        with pytest.raises(ValueError, match="different keys"):
            pool.generate(requests(2, 3)[:1] * 2)


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
    assert [[ids(r.token_ids) for r in g.rollouts] for g in resumed] == [
        [ids(r.token_ids) for r in g.rollouts] for g in plain
    ]


def test_a_failing_journal_stops_the_call_with_its_own_error() -> None:
    def listen(deltas: list[Delta]) -> None:
        raise OSError(28, "No space left on device")

    with pool_of(lambda _: engine()) as pool:
        with pytest.raises(OSError, match="No space"):
            pool.extend(make_groups(), 0, listen)
        assert pool.extend(make_groups(), 0) == undisturbed(make_groups())


def test_pool_imports_neither_ray_nor_vllm_nor_torch() -> None:
    import subprocess
    import sys

    code = "import rollout.pool.pool, sys; print(sorted({'ray', 'torch', 'vllm', 'transformers'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_waiting_for_engines_ends_when_each_serves_or_is_given_up() -> None:
    fleet = Fleet(None, Faults(fail_start=True), Faults(fail_start=True))
    with pool_of(fleet, count=2, max_restarts=0) as pool:
        pool.start()
        pool.wait()
        stats = pool.stats()
        assert (len(stats.engines), stats.given_up) == (1, 1)
    with pool_of(Fleet(Faults(fail_start=True)), max_restarts=0) as pool, pytest.raises(AllEnginesDead):
        pool.wait()
