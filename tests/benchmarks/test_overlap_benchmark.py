"""What benchmarks.overlap rests on: a clock that nothing real moves, actors that take time on it, its judgement."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from benchmarks.overlap import goals, kept, quality, real, simulated
from benchmarks.overlap.__main__ import options_of
from benchmarks.overlap.clock import Clock
from benchmarks.overlap.machine import Engine, Lengths, cpu, gpu
from rl.config import RunConfig
from rl.config_io import dump, load, parse_yaml

MODEL = Path("/models/some")
ENGINE = Engine("even", step_s=0.01, sequence_s=0.001, prefill_s=0.0, publish_s=0.1, slots=8)
STALE = simulated.Arm("S = 1", {"max_staleness": 1})
CASE = simulated.Case(ENGINE, Lengths(24, 0.6), groups=4, k=2, iterations=4, skipped=1)


def test_simulated_time_is_what_was_asked_for_and_waits_for_whoever_is_at_work() -> None:
    ended: dict[str, float] = {}

    def slow(clock: Clock) -> None:
        clock.sleep(1.0)
        sum(range(300_000))  # real work takes no time on this clock
        clock.sleep(0.5)
        ended["slow"] = clock.now

    def fast(clock: Clock) -> None:
        for _ in range(3):
            clock.sleep(0.25)
        ended["fast"] = clock.now

    with Clock() as clock:
        threads = [threading.Thread(target=work, args=(clock,)) for work in (slow, fast)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert ended == {"slow": 1.5, "fast": 0.75}
    assert clock.now == 1.5


def test_lengths_are_the_same_in_every_arm_and_have_the_mean_and_the_tail_that_they_are_to_have() -> None:
    drawn = [Lengths(100, 1.2).of(group, sibling) for group in range(2000) for sibling in range(4)]
    assert drawn == [Lengths(100, 1.2).of(group, sibling) for group in range(2000) for sibling in range(4)]
    assert sum(drawn) / len(drawn) == pytest.approx(100, rel=0.1)
    ordered = sorted(drawn)
    assert ordered[len(drawn) // 2] == pytest.approx(100 * 0.487, rel=0.1)
    assert ordered[int(0.99 * len(drawn))] > 6 * ordered[len(drawn) // 2]


def test_an_engine_of_a_gpu_gains_more_from_a_full_batch_than_one_of_a_cpu() -> None:
    assert gpu().token(8) / gpu().token(256) > 2 * cpu().token(8) / cpu().token(256)
    assert cpu().slots / cpu().step(cpu().slots) == pytest.approx(9100)


def test_in_turn_the_time_is_that_of_engine_learner_and_publishing() -> None:
    ran = simulated.run(CASE, simulated.IN_TURN, 0.001)
    assert ran.iterations == 3
    waited = ran.seconds - ran.learner_s - ran.engine_s - ran.iterations * ENGINE.publish_s
    assert 0 <= waited < 0.1 * ran.iterations, "what a poll lingers for"
    assert ran.learner_s == pytest.approx(0.001 * ran.tokens)


def test_overlapped_it_is_faster_within_the_bounds_and_the_same_every_time() -> None:
    base = simulated.run(CASE, simulated.IN_TURN, 0.004)
    ran, again = (simulated.run(CASE, STALE, 0.004) for _ in range(2))
    row = simulated.row_of(CASE, "in turn", 0.004, STALE, ran, base)
    assert 1.1 < row["ratio"] <= min(row["bound_learner"], row["bound_engine"])
    assert again.tokens == pytest.approx(ran.tokens, rel=0.1)
    assert again.speed == pytest.approx(ran.speed, rel=0.05)


def test_a_learner_in_balance_takes_as_long_as_the_engine() -> None:
    ways = dict(simulated.learners(CASE))
    ran = simulated.run(CASE, simulated.IN_TURN, ways["in turn"])
    assert ran.learner_s == pytest.approx(ran.engine_s, rel=0.05)
    assert ways["at full batch"] == ENGINE.token(8)


@pytest.mark.parametrize("arm", real.OVERLAPS)
def test_real_arms_are_configurations_that_a_user_could_write(arm: str) -> None:
    config = real.config(arm, MODEL, 1, 8, False, 2)
    assert load(RunConfig(), parse_yaml(dump(config)), []) == config
    assert config.model.threads == config.engine.threads == (2 if arm == "in turn" else 1)


def test_arms_of_quality_differ_in_staleness_and_weight_alone() -> None:
    made = {arm: quality.config(MODEL, 0, 8, False, *arm) for arm in quality.arms(False)}
    assert len(made) == 8
    base = made[0, False]
    assert base.rollout.segment_tokens == base.rollout.max_tokens, "S bounds the age of every token"
    for (staleness, weighted), config in made.items():
        assert config.overlap is not None
        assert config.overlap.max_staleness == staleness
        assert (config.learner.objective.importance is not None) == weighted
        same = {"overlap": base.overlap, "learner": base.learner}
        assert config.model_copy(update=same) == base
        assert load(RunConfig(), parse_yaml(dump(config)), []) == config


def test_results_are_kept_for_the_same_settings_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "FOLDER", tmp_path)
    folders = []

    def measure(folder: Path) -> dict[str, Any]:
        folders.append(folder)
        return {"figure": len(folders)}

    assert kept.kept("a/b", "one", measure) == {"figure": 1}
    assert kept.kept("a/b", "one", measure) == {"figure": 1}
    assert kept.kept("a/b", "other", measure) == {"figure": 2}
    assert folders == [tmp_path / "a/b"] * 2


def test_settings_are_what_is_not_the_default_wherever_the_checkout_is() -> None:
    one, other = (quality.config(kept.ROOT / "runs" / "model", 0, 8, False, staleness, False) for staleness in (1, 2))
    assert kept.settings_of(one) != kept.settings_of(other)
    assert str(kept.ROOT) not in kept.settings_of(one)
    assert "stall_timeout_s" not in kept.settings_of(one)


def figures(accuracy: float, speed: float, **more: Any) -> dict[str, Any]:
    low, high = accuracy - 0.03, accuracy + 0.03
    idle = {"idle_engines": 0.4, "idle_learner": 0.5}
    row = {"trained_tokens_per_s": speed, "samples_per_s": speed / 100, "accuracy": accuracy, "ci95": [low, high]}
    return row | idle | {"means": {"staleness/loss_mean": 1.0}} | more


def test_the_real_summary_pairs_seeds() -> None:
    found = [
        figures(0.7, 1000.0, arm="in turn", seed=0),
        figures(0.6, 2000.0, arm="in turn", seed=1),
        figures(0.72, 1500.0, arm="S = 1", seed=0),
        figures(0.6, 2600.0, arm="S = 1", seed=1),
        figures(0.9, 9000.0, arm="S = 1", seed=2),
    ]
    told = real.summary(found)["arms"]["S = 1"]
    assert told["ratio"] == pytest.approx(1.4)
    assert told["seeds"] == 2, "of the third there is none in turn"
    assert told["difference"] == pytest.approx(0.01)
    assert told["difference_ci95"][0] < 0 < told["difference_ci95"][1]


def test_the_quality_summary_compares_with_no_staleness() -> None:
    found = [
        figures(0.70, 1.0, staleness=0, weighted=False, seed=0),
        figures(0.74, 1.0, staleness=0, weighted=False, seed=1),
        figures(0.60, 1.0, staleness=4, weighted=False, seed=0),
        figures(0.62, 1.0, staleness=4, weighted=False, seed=1),
    ]
    _, stale = quality.summary(found)["arms"]
    assert stale["difference"] == pytest.approx(-0.11)
    assert stale["difference_ci95"][1] < 0


def simulated_row(arm: str, sigma: float, ratio: float) -> dict[str, Any]:
    row = {"part": "simulated", "arm": arm, "sigma": sigma, "ratio": ratio, "engine": "e"}
    row |= {"balanced": "in turn", "in_flight": "abort"}
    return row | {"bound_learner": 2.0, "bound_engine": 3.0, "bound_engine_here": 2.5}


def test_goals_have_their_figures_and_are_judged_by_them() -> None:
    rows = [
        simulated_row("S = 1", 0.6, 1.7),
        simulated_row("S = 1", 0.6, 1.95),
        simulated_row("S = 2", 1.2, 1.99),
        simulated_row("S = 2", 1.2, 2.6) | {"balanced": "at full batch"},
        {"part": "trl", "measure": "summary", "samples_per_s": 2.4, "time_to_target": None},
        real.summary([figures(0.7, 1000.0, arm="in turn", seed=0), figures(0.73, 1500.0, arm="S = 1", seed=0)]),
    ]
    verdict = goals.judged(rows)
    met = {name: goal["met"] for name, goal in verdict["goals"].items()}
    assert met == {
        "simulated_s1": True,
        "simulated_s2_long_tail": False,
        "real_ratio": True,
        "real_same_accuracy": True,
        "trl_samples_per_s": True,
        "trl_time_to_target": False,
    }
    assert not verdict["met"]
    tail = verdict["goals"]["simulated_s2_long_tail"]
    assert (tail["figure"], tail["bound_learner"], tail["out_of_reach"], len(tail["all"])) == (1.99, 2.0, True, 2)
    assert verdict["goals"]["real_ratio"]["seeds"] == [1.5]
    assert verdict["shown"]["idle"]["S = 1"] == {"engines": 0.4, "learner": 0.5}
    assert goals.judged(rows[:2])["met"] is False, "one of the two goals has no row"
    assert goals.judged([]) == {"goals": {}, "shown": {}, "met": False}


def test_accuracy_is_the_same_only_if_the_interval_says_so() -> None:
    def verdict(accuracy: float) -> Any:
        pair = [figures(0.7, 1000.0, arm="in turn", seed=0), figures(accuracy, 1500.0, arm="S = 1", seed=0)]
        return goals.judged([real.summary(pair)])["goals"]["real_same_accuracy"]

    assert verdict(0.7)["met"] is False, "one seed says too little"
    assert verdict(0.73)["met"] is True


def test_unknown_parts_and_arms_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--only", "nothing"], ["--arms", "sideways"]):
        with pytest.raises(SystemExit):
            options_of(arguments)
    assert "there are simulated, real, trl, quality" in capsys.readouterr().err


def test_a_peer_that_misses_the_target_counts_with_all_of_its_time() -> None:
    ours = {"part": "trl", "arm": "S = 1", "seed": 0, "samples_per_s": 60.0, "seconds_to_target": 20.0, "seconds": 25.0}
    peer = {**ours, "arm": "trl", "samples_per_s": 30.0, "seconds_to_target": 100.0, "seconds": 120.0}
    assert real.trl_summary([ours, peer])["time_to_target"] == 5.0
    missed = real.trl_summary([ours, {**peer, "seconds_to_target": None}])
    assert (missed["time_to_target"], missed["trl_missed"]) == (6.0, [0])
    assert real.trl_summary([{**ours, "seconds_to_target": None}, peer])["time_to_target"] is None
