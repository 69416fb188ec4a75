"""The arithmetic of the benchmarks: curves, ratios, goals, quantiles. Their measurements are no tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from paths import ROOT

from benchmarks import loop, partial, weights
from benchmarks.common import MemoryWatch, environment, quantiles, ratio, spread, tree_memory
from benchmarks.curve import Checked, Curve, Point, RunWatch, compare, load_curve, outcome, points_of, save_curve
from benchmarks.trl_arm import padded, until_end
from benchmarks.weights import Publish
from recipes import quickstart
from rl.config_io import dump, load
from rollout.types import Prompt
from tests.processes import until

CURVE = Curve(
    points=(Point(2.0, 100, 5_000), Point(4.0, 200, 11_000), Point(8.0, 400, 30_000)),
    checks=(Checked(0, 0.3, 0.25, 0.35), Checked(2, 0.62, 0.55, 0.69), Checked(3, 0.8, 0.75, 0.85)),
)


def test_ratios_and_quantiles() -> None:
    assert ratio(3.0, 2.0) == 1.5
    assert ratio(None, 2.0) is None
    assert ratio(1.0, None) is None
    assert ratio(1.0, 0.0) is None
    assert quantiles([]) == {}
    found = quantiles(range(1, 101))
    assert (found["p10"], found["p50"], found["p99"], found["p100"]) == (10, 50, 99, 100)
    assert set(quantiles([7]).values()) == {7}
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "low": 1.0, "high": 3.0, "n": 3}


def test_rates_are_taken_up_to_the_target() -> None:
    row = outcome(CURVE, 0.6)
    assert row["seconds_to_target"] == 4.0
    assert row["iterations_to_target"] == 2
    assert row["samples_per_s"] == 50.0
    assert row["trained_tokens_per_s"] == 2750.0
    assert [check["seconds"] for check in row["accuracy"]] == [0.0, 4.0, 8.0]


def test_a_missed_target_has_no_time_and_takes_the_whole_run() -> None:
    row = outcome(CURVE, 0.9)
    assert row["seconds_to_target"] is None
    assert row["trained_tokens_per_s"] == 3750.0
    assert compare(row, outcome(CURVE, 0.6))["time_to_target"] is None


def test_a_target_that_the_start_already_meets_costs_no_time() -> None:
    assert outcome(CURVE, 0.2)["seconds_to_target"] == 0.0


def test_ratios_above_one_mean_that_ours_is_faster() -> None:
    ours = {"samples_per_s": 40.0, "trained_tokens_per_s": 3000.0, "seconds_to_target": 20.0, "peak_pss_mb": 3000}
    theirs = {"samples_per_s": 20.0, "trained_tokens_per_s": 1000.0, "seconds_to_target": 50.0, "peak_pss_mb": 1500}
    found = compare(ours, theirs)
    assert found == {"samples_per_s": 2.0, "trained_tokens_per_s": 3.0, "time_to_target": 2.5, "peak_memory": 0.5}


def metrics(total: float, evaluated: float, finished: int, trained: int) -> dict[str, float]:
    return {"time/total": total, "time/eval": evaluated, "rollouts/finished": finished, "tokens/trained": trained}


def test_points_of_a_run_leave_out_evaluations_and_count_all_else() -> None:
    rows = [metrics(3.0, 0.0, 10, 100), metrics(6.0, 2.0, 20, 200)]
    # The second row comes 8 s after the first: 6 s that the loop timed, 2 of them evaluation, and 2 s of other work.
    assert points_of(rows, [103.0, 111.0]) == (Point(3.0, 10, 100), Point(9.0, 30, 300))
    assert points_of(rows, [103.0]) == (Point(3.0, 10, 100),)
    assert points_of([], []) == ()


def test_the_watch_notes_when_rows_appear(tmp_path: Path) -> None:
    watch = RunWatch(tmp_path)
    watch.look()
    assert watch.ended == []
    file = tmp_path / "metrics.jsonl"
    file.write_text(json.dumps({"iteration": 0, **metrics(1.0, 0.0, 4, 40)}) + "\n")
    watch.look()
    watch.look()
    assert len(watch.ended) == 1
    with file.open("a") as handle:
        handle.write(json.dumps({"iteration": 1, **metrics(1.0, 0.0, 4, 40)}) + "\n")
    time.sleep(0.01)
    watch.look()
    assert watch.ended[1] > watch.ended[0]
    assert watch.curve().points[-1].samples == 8


def test_curves_survive_the_way_between_processes(tmp_path: Path) -> None:
    save_curve(CURVE, tmp_path / "curve")
    assert load_curve(tmp_path / "curve") == CURVE


def test_loop_summary_needs_every_seed_at_the_target() -> None:
    reached = outcome(CURVE, 0.6) | {"wall_seconds": 60.0, "peak_pss_mb": 3000}
    missed = outcome(CURVE, 0.9) | {"wall_seconds": 70.0, "peak_pss_mb": 3100}
    found = loop.summarise({"k15": [reached, reached], "trl": [reached, missed]})
    assert found["medians"]["k15"]["seconds_to_target"] == 4.0
    assert found["medians"]["trl"]["seconds_to_target"] is None
    assert found["ratios"]["k15/trl"]["time_to_target"] is None
    assert found["ratios"]["k15/trl"]["samples_per_s"] == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize("arm", loop.K15)
def test_arms_are_configurations_that_a_user_could_write(arm: str, tmp_path: Path) -> None:
    config = loop.config_of(arm, tmp_path, seed=1, iterations=4, smoke=False)
    assert load(type(config)(), load_yaml(dump(config)), []) == config
    assert (config.rollout.segment_tokens < config.rollout.max_tokens) == (arm == "k15")
    assert config.rollout.groups * config.rollout.k == 256
    assert config.warmup is None


def load_yaml(text: str) -> dict:
    from rl.config_io import parse_yaml

    return parse_yaml(text)


def test_the_mixture_is_long_tailed_and_its_splits_are_apart() -> None:
    train, heldout = partial.mixture(300, "train", 0), partial.mixture(60, "heldout", 0)
    assert partial.mixture(300, "train", 0) == train
    assert not {problem.id for problem, _ in train} & {problem.id for problem, _ in heldout}
    sizes = quantiles([len(text) for _, text in train])
    assert sizes["p99"] > 4 * sizes["p50"]
    assert sum(partial.STEPS.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("arm", ["full", "partial"])
def test_partial_arms_differ_in_the_segment_only(arm: str, tmp_path: Path) -> None:
    base = partial.base_config(tmp_path, smoke=True)
    config = partial.arm_config(base, tmp_path, arm, 0, 4, groups=16)
    assert load(type(config)(), load_yaml(dump(config)), []) == config
    full = partial.arm_config(base, tmp_path, "full", 0, 4, groups=16)
    same = {"segment_tokens": full.rollout.segment_tokens}
    assert config.model_copy(update={"rollout": config.rollout.model_copy(update=same)}) == full


def test_partial_summary_is_a_ratio_of_costs() -> None:
    def row(cost: float) -> dict:
        return {"seconds_per_1k_trained_tokens": cost, "learning": [{"accuracy": 0.5}]}

    found = partial.summarise({"full": [row(0.6), row(0.8)], "partial": [row(0.4), row(0.4)]})
    assert found["ratio"] == 1.75
    assert found["ratios"] == [1.5, 2.0]
    assert found["met"]


def test_goal_of_weights() -> None:
    rounds = [Publish(send=0.05, load=0.08, check=9.0)] * 3
    assert weights.summary("m", 100, [0.05] * 3, [0.1] * 3, rounds)["met"]
    slow = [Publish(send=0.05, load=0.11, check=0.0)] * 3
    found = weights.summary("m", 100, [0.05] * 3, [0.1] * 3, slow)
    assert not found["met"]
    assert (found["publish_s"], found["goal_s"], found["bound_s"]) == (0.16, 0.15, 0.15)


def test_prompts_of_a_batch_end_together() -> None:
    assert padded([Prompt((5, 6, 7)), Prompt((8,))], 0) == [[5, 6, 7], [0, 0, 8]]


def test_responses_end_with_their_end_token() -> None:
    assert until_end([5, 6, 1, 0, 0], (1,)) == [5, 6, 1]
    assert until_end([5, 6], (1,)) == [5, 6]


def test_environment_says_what_a_measurement_depends_on() -> None:
    facts = environment()
    assert facts["cores"] == len(os.sched_getaffinity(0))
    assert facts["versions"]["torch"]
    json.dumps(facts)


def test_memory_of_a_tree_counts_children() -> None:
    code = "import subprocess, sys; b = bytearray(80_000_000); "
    child = [sys.executable, "-c", "b = bytearray(80_000_000); input()"]
    command = [sys.executable, "-c", code + f"subprocess.run({child!r})"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        with MemoryWatch(process.pid, every_s=0.05) as memory:
            until(lambda: memory.peak >= 160_000_000, "both processes' memory")
        process.communicate(b"\n")
    assert memory.peak >= 160_000_000
    assert tree_memory(process.pid) == 0


@pytest.mark.parametrize("name", ["loop", "overlap", "partial", "weights"])
def test_help_teaches(name: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--smoke" in done.stdout
    assert "Held equal" in done.stdout


@pytest.mark.slow
def test_weights_smoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The measurement from end to end, `copy` and `pack` in a process of their own, on an engine that starts fast."""
    config = weights.config_of("tiny")
    assert config.engine.kind == quickstart.config().engine.kind == "vllm"
    fast = {
        "engine": config.engine.model_copy(update={"kind": "hf"}),
        "ray": config.ray.model_copy(update={"in_process": True}),
    }
    monkeypatch.setattr(weights, "config_of", lambda _: config.model_copy(update=fast))
    monkeypatch.setattr(weights, "CACHE", tmp_path)
    assert weights.main(["--smoke"]) == 0
    *lines, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["measure"] for line in lines} == {"copy_s", "pack_s", "send_s", "load_s", "check_s", "total_s"}
    assert last["models"][0]["bytes"] > 2_000_000
