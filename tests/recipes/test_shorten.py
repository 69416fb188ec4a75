"""`k15 shorten` from end to end: a tiny run in this process, every method, resumption, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from evals.evaluate import asks_of, evaluate
from recipes.commands.cli import main
from recipes.run.session import run
from recipes.run.setup import prepare
from recipes.shorten.answering import responder
from recipes.shorten.config import ShortenConfig
from recipes.shorten.second_phase import second_phase
from recipes.shorten.training import on_model
from rl.config import RunConfig
from rollout.engine import Engine
from rollout.engines.actor import build_engine
from rollout.grading import Grading, by_name
from rollout.pool.pool import Pool

TINY = {
    "iterations": 3,
    "model": {
        "base": {
            "kind": "scratch",
            "layers": 1,
            "width": 32,
            "heads": 1,
            "kv_heads": 1,
            "mlp_width": 64,
            "context": 96,
        },
        "threads": 1,
    },
    "problems": {
        "train": {"kind": "arithmetic", "steps": [1, 1], "digits": 1, "careful": 0.4, "jumps": 0.4},
        "heldout": {"kind": "arithmetic", "steps": [1, 1], "digits": 1},
        "heldout_size": 6,
    },
    "warmup": {"examples": 2500, "batch_tokens": 256, "lr": 1e-2},
    "engine": {"kind": "hf", "max_model_len": 96, "threads": 1},
    "rollout": {"groups": 4, "k": 4, "segment_tokens": 24, "max_tokens": 40, "loss_on": "all"},
    "reward": {"length": {"weight": 0.5, "start_iteration": 0}},
    "learner": {"updates": 2},
    "eval": {"every": 0, "samples": 2},
    "checkpoint": {"every": 1, "keep": 3},
    "log": {"live": False},
    "ray": {"in_process": True},
}
KEYS = {
    "--sample.problems": "12",
    "--sample.n": "6",
    "--rejection.batch_tokens": "256",
    "--dpo.longer": "1.1",
    "--dpo.batch_pairs": "8",
    "--rl.iterations": "2",
    "--rl.max_tokens": "24",
    "--rl.selection_problems": "6",
    "--judge.samples": "2",
}
MADE = ("merge", "rejection", "merge_rejection", "dpo", "rl")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert run(RunConfig.model_validate(TINY), folder) == 0
    return folder


def arguments(model: Path | str, out: Path, method: str = "all", **changes: str) -> list[str]:
    keys = KEYS | {f"--{name.replace('__', '.')}": value for name, value in changes.items()}
    return ["shorten", str(model), "--method", method, "--out", str(out), *(p for pair in keys.items() for p in pair)]


@contextmanager
def engines_started() -> Iterator[list[str]]:
    """The models that engines are started on within the block."""
    started: list[str] = []

    def build(path: str, *rest: Any) -> Engine:
        started.append(path)
        return build_engine(path, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rollout.engines.actor.build_engine", build)
        yield started


@pytest.fixture(scope="module")
def all_methods(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder, and the models that engines were started on."""
    out = tmp_path_factory.mktemp("short") / "all"
    with engines_started() as started:
        assert main(arguments(trained, out)) == 0
    return out, started


@pytest.fixture(scope="module")
def shortened(all_methods: tuple[Path, list[str]]) -> Path:
    return all_methods[0]


def test_one_engine_serves_all_stages_and_variants(all_methods: tuple[Path, list[str]], trained: Path) -> None:
    """Before, eleven were started one after the other, which took longer than all of their work."""
    assert all_methods[1] == [str(trained / "model")]


def model_of(out: Path, name: str) -> Path:
    return out / name / ("run/model" if name == "rl" else "model")


@pytest.mark.parametrize("name", MADE)
def test_each_method_makes_another_model_that_loads(shortened: Path, trained: Path, name: str) -> None:
    made = AutoModelForCausalLM.from_pretrained(model_of(shortened, name)).state_dict()
    long = AutoModelForCausalLM.from_pretrained(trained / "model").state_dict()
    assert made.keys() == long.keys()
    assert all(tensor.isfinite().all() for tensor in made.values())
    assert any(not made[key].equal(long[key]) for key in long)
    assert json.loads((shortened / name / "stage.json").read_text())["note"]
    assert (model_of(shortened, name) / "tokenizer.json").exists()


def test_all_are_judged_on_the_same_heldout_problems_and_none_was_learned_from(shortened: Path) -> None:
    judged = {
        name: pq.read_table(shortened / "judged" / name / "samples.parquet").to_pylist()
        for name in ("long", "short", *MADE)
    }
    asked = {name: [(row["problem"], row["sample"]) for row in rows] for name, rows in judged.items()}
    assert all(one == asked["long"] for one in asked.values())
    assert len(asked["long"]) == 12
    learned = {
        row["problem"]
        for name in ("samples-long", "samples-merge")
        for row in pq.read_table(shortened / name / "samples.parquet").to_pylist()
    }
    rl = {
        row["problem"]
        for path in (shortened / "rl/run/rollouts").glob("*.parquet")
        for row in pq.read_table(path).to_pylist()
    }
    assert learned
    assert rl
    assert not (learned | rl) & {problem for problem, _ in asked["long"]}


@pytest.mark.parametrize("name", ["short", "merge", "dpo", "rl"])
def test_answers_under_published_weights_are_those_of_an_engine_on_the_model_itself(
    shortened: Path, trained: Path, name: str
) -> None:
    model = trained / "warmup" if name == "short" else model_of(shortened, name)
    setup = prepare(on_model(RunConfig.model_validate(TINY), model))
    config = setup.config
    asks = asks_of(setup.heldout, 2, config.seed)
    with Pool(lambda _: build_engine(str(model), config.engine, 0), config.engine, config.rollout, setup.end) as pool:
        alone = evaluate(responder(setup, pool, config.eval.temperature), asks, Grading.by(by_name))
    rows = pq.read_table(shortened / "judged" / name / "samples.parquet").to_pylist()
    assert [(a.problem.id, a.sample, list(a.response.token_ids)) for a in alone] == [
        (row["problem"], row["sample"], row["token_ids"]) for row in rows
    ]


def test_a_short_model_of_another_size_is_judged_on_engines_of_its_own(
    shortened: Path, trained: Path, tmp_path: Path
) -> None:
    smaller, out = tmp_path / "smaller", tmp_path / "out"
    shutil.copytree(trained / "warmup", smaller)
    config = AutoConfig.from_pretrained(smaller)
    config.intermediate_size //= 2
    AutoModelForCausalLM.from_config(config).save_pretrained(smaller)
    shutil.copytree(shortened / "dpo", out / "dpo")
    with engines_started() as started:
        assert main(arguments(trained, out, "dpo", **{"short-model": str(smaller)})) == 0
    assert started == [str(trained / "model"), str(smaller), str(out / "dpo" / "model")]
    assert "short" in [one["name"] for one in json.loads((out / "results.json").read_text())["variants"]]


def test_the_second_phase_keeps_the_smaller_cap(shortened: Path) -> None:
    lengths = [
        row["length"]
        for path in (shortened / "rl/run/rollouts").glob("*.parquet")
        for row in pq.read_table(path).to_pylist()
    ]
    assert max(lengths) <= 24


def test_the_base_of_rl_is_chosen_among_the_runs_checkpoints_on_training_problems(shortened: Path) -> None:
    selection = json.loads((shortened / "rl" / "selection.json").read_text())
    assert [one["iteration"] for one in selection["candidates"]] == [1, 2, 3]
    best = max(selection["candidates"], key=lambda one: (one["efficiency"], one["iteration"]))
    assert f"iteration {best['iteration']}:" in selection["why"]
    rows = pq.read_table(shortened / "rl/selection" / "000001" / "samples.parquet").to_pylist()
    heldout = pq.read_table(shortened / "judged/long/samples.parquet").to_pylist()
    assert not {row["problem"] for row in rows} & {row["problem"] for row in heldout}


def test_results_report_and_plot_are_written(shortened: Path) -> None:
    data = json.loads((shortened / "results.json").read_text())
    assert {one["name"] for one in data["variants"]} == {"long", "short", *MADE}
    assert (
        "<svg" in (shortened / "report.html").read_text()
        or "createElementNS" in (shortened / "report.html").read_text()
    )
    assert (shortened / "efficiency.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_time_nothing_is_made_or_asked_again(shortened: Path, trained: Path) -> None:
    watched = [*shortened.glob("*/responses.jsonl"), *shortened.glob("judged/*/responses.jsonl")]
    watched += [model_of(shortened, name) / "model.safetensors" for name in MADE]
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in watched}
    assert len(watched) == 2 + 7 + 5
    assert main(arguments(trained, shortened)) == 0
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in watched} == before


def test_interrupted_sampling_goes_on_and_repeats_nothing(shortened: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "half"
    shutil.copytree(shortened / "samples-long", out / "samples-long")
    record = out / "samples-long" / "responses.jsonl"
    lines = record.read_text().splitlines(keepends=True)
    record.write_text("".join(lines[:40]))
    stage = out / "samples-long" / "stage.json"
    stage.write_text(json.dumps(json.loads(stage.read_text()) | {"note": None}))
    assert main(arguments(trained, out, "dpo")) == 0
    again = record.read_text().splitlines(keepends=True)
    assert again[:40] == lines[:40]
    keys = [(row["id"], row["sample"]) for row in map(json.loads, again)]
    assert len(keys) == len(set(keys)) == 72


def test_other_keys_for_a_finished_stage_are_refused(
    shortened: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(trained, shortened, "dpo", dpo__beta="0.7")) == 0  # finished: its keys are not looked at
    (shortened / "dpo" / "stage.json").write_text(
        json.dumps(json.loads((shortened / "dpo" / "stage.json").read_text()) | {"note": None})
    )
    assert main(arguments(trained, shortened, "dpo", dpo__beta="0.7")) == 2
    assert "dpo.beta: 0.1 -> 0.7" in capsys.readouterr().err


def test_no_correct_response_stops_with_a_reason(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = tmp_path / "p.jsonl"
    rows = [{"id": f"{i}", "problem": f"Compute\na {i}\nb +1", "answer": "impossible"} for i in range(10)]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    extra = ["--problems", str(problems), "--verifier", "arithmetic"]
    assert main([*arguments(trained, tmp_path / "out", "rejection"), *extra]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "none of the 48 responses to 8 training problems is correct" in error


def test_bad_commands(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*given: str) -> str:
        assert main([*given]) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    out = str(tmp_path / "out")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    model = str(trained / "model")
    assert "sample.n" in refused(*arguments(trained, tmp_path / "o", sample__n="1"))
    assert "rl.max_tokens (40)" in refused(*arguments(trained, tmp_path / "o", rl__max_tokens="40"))
    assert "--problems FILE" in refused("shorten", model, "--method", "dpo", "--out", out)
    assert "empty.jsonl" in refused("shorten", model, "--method", "dpo", "--out", out, "--problems", str(empty))
    assert "metrics.jsonl:1" in refused(
        "shorten", model, "--method", "dpo", "--out", out, "--problems", str(trained / "metrics.jsonl")
    )
    good = tmp_path / "good.jsonl"
    good.write_text("".join(json.dumps({"id": f"{i}", "problem": f"{i}?", "answer": "1"}) + "\n" for i in range(9)))
    assert "--short-model" in refused("shorten", model, "--method", "merge", "--out", out, "--problems", str(good))
    assert "did you mean 'dpo.beta'" in refused(*arguments(trained, tmp_path / "o", dpo__betta="1"))
    assert "no such model directory" in refused(*arguments(trained, tmp_path / "o", **{"short-model": "./none"}))
    with pytest.raises(SystemExit):
        main(["shorten", str(trained), "--method", "prune", "--out", out])
    assert "merge, rejection" in capsys.readouterr().err


def test_a_short_model_with_another_tokenizer_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(trained / "warmup", other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second, *_ = [token for token in vocabulary if token.isdigit()]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert main(arguments(trained, tmp_path / "out", "merge", **{"short-model": str(other)})) == 2
    assert "tokenizer" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out" / "merge" / "model").exists()


def test_the_second_phase_is_the_run_but_for_what_makes_responses_short() -> None:
    config = ShortenConfig.model_validate({"run": {**TINY, "ray": {}}, "rl": {"max_tokens": 16, "lr": 5e-4}})
    phase = second_phase(config, Path("/base"))
    assert (phase.rollout.max_tokens, phase.rollout.segment_tokens) == (16, 16)
    assert phase.reward.length
    assert phase.reward.length.start_iteration == 0
    assert phase.warmup is None
    assert phase.model.base.model_dump() == {"kind": "pretrained", "path": "/base"}
    assert phase.learner.optimizer.lr == 5e-4
    changed = {"recipe", "seed", "iterations", "model", "warmup", "rollout", "learner", "reward", "eval"}
    before: dict[str, Any] = config.run.model_dump()
    assert {key for key, value in phase.model_dump().items() if value != before[key]} <= changed


def test_a_lora_policy_is_shortened_with_adapters_and_comes_out_whole(trained: Path, tmp_path: Path) -> None:
    adapters = {"rank": 4, "target_modules": ["q_proj", "down_proj"]}
    policy = {"base": {"kind": "pretrained", "path": str(trained / "model")}, "lora": adapters, "threads": 1}
    source, out = tmp_path / "run", tmp_path / "out"
    assert run(RunConfig.model_validate({**TINY, "iterations": 1, "model": policy, "warmup": None}), source) == 0
    short = {"short-model": str(trained / "warmup")}
    assert main(arguments(source, out, "merge,dpo,rl", rl__iterations="1", **short)) == 0
    base = AutoModelForCausalLM.from_pretrained(source / "model").state_dict()
    for name in ("merge", "dpo", "rl"):
        made = AutoModelForCausalLM.from_pretrained(model_of(out, name)).state_dict()
        assert made.keys() == base.keys()
        changed = {key for key in base if not made[key].equal(base[key])}
        assert changed
        assert name == "merge" or all("q_proj" in key or "down_proj" in key for key in changed)


@pytest.mark.slow
def test_on_ray(ray_cluster: str, trained: Path, tmp_path: Path) -> None:
    """The command as a user types it: engine, fine-tuning and DPO in actors, on a cluster that it joins.

    (How vLLM takes one set of weights after another: ``test_vllm_engine.py``.)
    """
    program = Path(sys.executable).with_name("k15")
    out = tmp_path / "out"
    command = [str(program), *arguments(trained, out, "rejection,dpo", run__ray__in_process="false")]
    joined = os.environ | {"RAY_ADDRESS": ray_cluster}
    done = subprocess.run(command, env=joined, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "shortest rejection" in done.stdout
    long = AutoModelForCausalLM.from_pretrained(trained / "model").state_dict()
    for name in ("rejection", "dpo"):
        made = AutoModelForCausalLM.from_pretrained(model_of(out, name)).state_dict()
        assert any(not made[key].equal(long[key]) for key in long)
