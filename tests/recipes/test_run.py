"""Whole runs in one process: the real loop, learner and pool, with the hf engine and a tiny model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from run_kit import assert_same_run, tiny, weights
from safetensors.torch import load_file

from evals.report.run.data import ReportError
from recipes.run import finish
from recipes.run import session as recipes_run
from recipes.run.probe import scorable
from recipes.run.promise import BROKEN
from recipes.run.session import run
from rl import loop
from rl.config import RunConfig
from rl.learner.host import LearnerHost
from rl.record.idle import summarise, windows
from rl.record.log import read_metrics
from rl.record.timeline import read_timeline
from rl.state import checkpoint
from rl.state.checkpoint import RunState
from rl.state.run_dir import RunDir

EASY = {"train": {"kind": "arithmetic", "steps": [2, 2]}, "heldout": {"kind": "arithmetic", "steps": [2, 2]}}
LONG = {"kind": "arithmetic", "steps": [24, 24]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert run(tiny(), folder) == 0
    return folder


def test_a_run_is_a_directory(whole: Path) -> None:
    names = {path.name for path in whole.iterdir()}
    assert {"config.yaml", "run.json", "metrics.jsonl", "rollouts", "checkpoints", "eval", "warmup", "model"} <= names
    assert {"summary.json", "report.html"} <= names
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["iterations"] == 4
    assert summary["partial_rollouts_resumed"] > 0
    assert 0 < summary["max_logprob_gap"] < 1e-4 or summary["max_logprob_gap"] == 0
    for key in ("accuracy_before", "accuracy_after"):
        low, high = summary[key]["ci95"]
        assert 0 <= low <= summary[key]["mean"] <= high <= 1
        assert summary[key]["n"] == 4
    change = summary["accuracy_change"]
    assert change["mean"] == pytest.approx(summary["accuracy_after"]["mean"] - summary["accuracy_before"]["mean"])
    assert change["ci95"][0] <= change["mean"] <= change["ci95"][1]
    assert [row["iteration"] for row in read_metrics(whole)] == [0, 1, 2, 3]


def test_a_run_records_what_its_parts_did(whole: Path) -> None:
    (process,) = read_timeline(whole)
    found = summarise(windows([process]))
    assert found is not None
    did = {use.lane: set(use.seconds) for use in found.lanes}
    assert did["learner"] >= {"publish", "score", "train", "save"}
    assert did["engine 0"] == {"publish", "score", "sample", "eval"}
    assert did["grader"] == {"grade"}
    assert did["driver"] >= {"publish", "sample", "train", "eval", "save"}
    assert [iteration for iteration, _ in process.done] == [0, 1, 2, 3]
    assert found.together_s == 0.0
    for row in read_metrics(whole):
        assert 0.0 < row["idle/engines"] < 1.0
        assert 0.0 < row["idle/learner"] < 1.0
    assert '"timeline":{"seconds":' in (whole / "report.html").read_text()


def test_the_length_reward_is_off_then_constant(whole: Path) -> None:
    assert [row["length_weight"] for row in read_metrics(whole)] == [0.0, 0.0, 0.5, 0.5]


def test_rollouts_hold_segments_of_several_versions(whole: Path) -> None:
    rows = [r for path in (whole / "rollouts").glob("*.parquet") for r in pq.read_table(path).to_pylist()]
    assert any(len(row["segment_versions"]) > 1 for row in rows)
    for row in rows:
        assert row["segment_versions"] == sorted(row["segment_versions"])
        assert sum(row["segment_lengths"]) == len(row["token_ids"]) == len(row["logprobs"])
        assert all(length <= 12 for length in row["segment_lengths"])


def test_the_export_loads_in_transformers(whole: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(whole / "model")
    model = AutoModelForCausalLM.from_pretrained(whole / "model")
    assert model.config.vocab_size == len(tokenizer)
    assert (whole / "model" / "README.md").read_text().startswith("---")


def test_a_finished_run_is_left_alone(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (whole / "summary.json").stat().st_mtime_ns
    assert run(tiny(), whole) == 0
    assert "finished already" in capsys.readouterr().out
    assert (whole / "summary.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("name", "text", "iterations", "words"),
    [
        ("summary.json", "{bad", 4, "summary.json: not what k15 wrote (JSONDecodeError"),
        ("summary.json", "{}", 4, "summary.json: not what k15 wrote (KeyError: 'iterations'); remove it"),
        ("summary.json", "[]", 4, "summary.json: not what k15 wrote (TypeError"),
        ("run.json", "{bad", 4, "run.json: not what k15 wrote"),
        ("config.yaml", "a: [", 4, "config.yaml:1: not valid YAML"),
        ("eval/before.json", "", 5, "before.json is gone, and the weights of before RL, which it tells of, too"),
        ("eval/before.json", "[]", 5, "before.json: not an evaluation of this version"),
        ("", "", 1, "4 iterations are done, iterations asks for 1; give at least 4, or choose another --run-dir"),
    ],
)
def test_a_run_that_cannot_go_on_says_why_in_one_line_and_is_left_as_it_was(
    name: str, text: str, iterations: int, words: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a run"
    shutil.copytree(whole, folder)
    if name and text:
        (folder / name).write_text(text)
    elif name:
        (folder / name).unlink()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert run(tiny(iterations=iterations), folder) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("k15: ")
    assert words in line
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def small(**changes: Any) -> RunConfig:
    return tiny(**{"iterations": 1, "warmup": None, "eval": {"every": 0, "samples": 1}, **changes})


def test_a_failed_export_costs_neither_summary_nor_report_and_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, original, exported = tmp_path / "run", LearnerHost.export, []

    def fails_at_the_end(host: LearnerHost, target: Path, dtype: str) -> None:
        exported.append(target)
        if len(exported) > 1:  # the first is the rehearsal
            raise TypeError("no such luck\nand more of it")
        original(host, target, dtype)

    with monkeypatch.context() as patch:
        patch.setattr(LearnerHost, "export", fails_at_the_end)
        assert run(small(), folder) == 1
    shown = capsys.readouterr()
    (line,) = shown.err.strip().splitlines()
    assert line.startswith("k15: ")
    assert "model cannot be written: no such luck" in line
    assert "not exported: the same command tries again" in shown.out
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["iterations"] == 1
    assert summary["model_path"] is None
    assert "1 iterations, finished" in (folder / "report.html").read_text()
    assert not (folder / "model").exists()

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", None)
        patch.setattr(recipes_run, "Session", None)  # neither engines nor evaluation: only what is missing
        assert run(small(), folder) == 0
    done = json.loads((folder / "summary.json").read_text())
    assert done == {**summary, "model_path": str(folder / "model")}
    assert run(small(), tmp_path / "undisturbed") == 0
    ours, theirs = weights(folder), weights(tmp_path / "undisturbed")
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    assert (folder / "model" / "README.md").read_text().startswith("---")


def test_what_would_fail_at_the_end_fails_before_anything_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any) -> None:
        raise ReportError("no report today")

    monkeypatch.setattr(finish, "build_report", fails)
    monkeypatch.setattr(LearnerHost, "sft", None)
    assert run(tiny(), tmp_path / "run") == 1
    assert "no report today" in capsys.readouterr().err
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert not left & {".rehearsal", "rollouts", "warmup", "model", "summary.json"}


def test_a_base_whose_generation_settings_contradict_themselves_is_trained_and_exported(
    whole: Path, tmp_path: Path
) -> None:
    """Llama-2-chat and many others carry such a file; transformers loads it and refuses to write it."""
    shutil.copytree(whole / "initial", tmp_path / "base")
    settings = b'{"do_sample": false, "temperature": 0.6, "eos_token_id": 1}'
    (tmp_path / "base" / "generation_config.json").write_bytes(settings)
    base = {"base": {"kind": "pretrained", "path": str(tmp_path / "base")}, "threads": 1}
    config = small(model={**base, "export_dtype": "bfloat16"}, warmup={"examples": 4, "batch_tokens": 256})
    assert run(config, tmp_path / "run") == 0
    for folder in ("warmup", "model"):
        assert (tmp_path / "run" / folder / "generation_config.json").read_bytes() == settings
        for name in ("tokenizer.json", "tokenizer_config.json"):
            assert (tmp_path / "run" / folder / name).read_bytes() == (tmp_path / "base" / name).read_bytes()
    types = [load_file(tmp_path / "run" / folder / "model.safetensors") for folder in ("warmup", "model")]
    assert [next(iter(each.values())).dtype for each in types] == [torch.float32, torch.bfloat16]


def test_a_resumed_run_is_bitwise_equal(whole: Path, tmp_path: Path) -> None:
    """Invariant 9: two iterations, then two more in another process's shoes."""
    assert run(tiny(iterations=2), tmp_path / "run") == 0
    assert run(tiny(), tmp_path / "run") == 0
    assert_same_run(whole, tmp_path / "run")


def test_a_driver_killed_in_the_middle_loses_no_token(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 4: the process ends right after the sampling of iteration 2, before anything of it was scored."""
    folder = tmp_path / "run"

    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        original = recipes_run.Rewarder.collect
        patch.setattr(
            recipes_run.Rewarder,
            "collect",
            lambda self, i, chosen=None: killed() if i == 2 else original(self, i, chosen),
        )
        with pytest.raises(Killed):
            run(tiny(), folder)
    journal = (folder / "journal" / "000002.arrow").read_bytes()
    assert journal
    assert run(tiny(), folder) == 0
    assert_same_run(whole, folder)
    rates = {row["iteration"]: row.get("throughput/sampled") for row in read_metrics(folder)}
    assert rates[2] is None, "its tokens came from the journal: there is no rate of sampling to tell"
    assert rates[3] > 0


def test_a_driver_killed_while_it_writes_a_checkpoint_loses_no_row(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row of iteration 2 was on disk; the iteration is replayed, and its row is there once, with equal numbers."""
    folder = tmp_path / "run"

    class Killed(BaseException):
        pass

    def killed(folder: Path, state: RunState, *more: Any) -> checkpoint.Pending:
        if state.iteration == 3:
            raise Killed
        return begin(folder, state, *more)

    begin = checkpoint.begin
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "begin", killed)
        with pytest.raises(Killed):
            run(tiny(), folder)
    assert [row["iteration"] for row in read_metrics(folder)] == [0, 1, 2]
    assert run(tiny(), folder) == 0
    ours, theirs = read_metrics(folder), read_metrics(whole)
    assert [row["iteration"] for row in ours] == [0, 1, 2, 3]
    done = [[iteration for iteration, _ in process.done] for process in read_timeline(folder)]
    assert done == [[0, 1, 2], [2, 3]]  # what happened
    clocks = ("time/", "throughput/", "memory/", "publish/seconds", "train/reference_s", "idle/")
    for mine, undisturbed in zip(ours, theirs, strict=True):
        assert {k: v for k, v in mine.items() if not k.startswith(clocks)} == {
            k: v for k, v in undisturbed.items() if not k.startswith(clocks)
        }


def test_checkpoints_that_are_written_while_the_run_goes_on_change_nothing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is finished only when the next one begins; the run is killed in between and resumed from the one before."""
    folder = tmp_path / "run"

    class Killed(BaseException):
        pass

    monkeypatch.setattr(LearnerHost, "saving", lambda _: True)
    iterate = loop.iterate

    def dies(config: RunConfig, state: RunState, i: int, *more: Any) -> RunState:
        if i == 2:
            raise Killed
        return iterate(config, state, i, *more)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "iterate", dies)
        with pytest.raises(Killed):
            run(tiny(), folder)
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"000001", ".000002.tmp"}
    assert (folder / "journal" / "000001.arrow").exists()
    assert run(tiny(), folder) == 0
    assert_same_run(whole, folder)
    assert not list((folder / "checkpoints").glob(".*"))


def test_a_corrupt_checkpoint_falls_back_and_ends_equal(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert run(tiny(iterations=3), folder) == 0
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    (newest / "learner" / "model.safetensors").write_bytes(b"rotten")
    assert run(tiny(), folder) == 0
    assert "falling back" in capsys.readouterr().out
    assert_same_run(whole, folder)


def test_a_changed_config_is_refused_with_the_difference(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    assert run(tiny(seed=3), copy) == 1
    assert "seed: 0 -> 3" in capsys.readouterr().err


def test_another_process_on_the_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunDir(tmp_path).lock():
        assert run(tiny(), tmp_path) == 1
    assert "another process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"base": {"kind": "pretrained", "path": "/no/such/model"}}}, "/no/such/model"),
        ({"problems": {"train": {"kind": "jsonl", "path": "/no/such.jsonl"}}}, "no problem file 'such.jsonl' in /no"),
        ({"problems": {"train": LONG, "heldout": LONG, "heldout_size": 4}}, "leaves room for 81"),
        ({"warmup": {"path": "/no/such.jsonl"}}, "/no/such.jsonl: cannot be read"),
        ({"problems": {**EASY, "train_size": 2}}, "2 training problems cannot fill a batch of 3"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(
    changes: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny(**changes), tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert error.startswith("k15: ")
    assert words in error
    assert len(error.strip().splitlines()) == 1
    # Nothing has begun: a mended configuration is none that changed.
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_probe_leaves_the_engine_room_for_one_token() -> None:
    assert scorable([range(5), range(8), range(9)], 8) == [[0, 1, 2, 3, 4], [*range(7)], [*range(7)]]


def test_a_run_without_rl_reports_the_gap_of_its_probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = recipes_run.publish
    monkeypatch.setattr(
        recipes_run, "publish", lambda *given: replace(original(*given), max_gap=0.007)
    )  # what the hf engine reports may be exactly 0
    assert run(tiny(iterations=0), tmp_path / "run") == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["max_logprob_gap"] == 0.007


def test_a_broken_promise_is_an_exit_code_of_its_own_and_costs_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two iterations of a model that has learnt nothing: RL has no signal, and says so everywhere."""
    config, folder = tiny(iterations=2, promise={"gain": 0.25, "final": 0.6}), tmp_path / "run"
    assert run(config, folder) == BROKEN
    said = capsys.readouterr().out
    summary = json.loads((folder / "summary.json").read_text())
    codes = [finding["code"] for finding in summary["findings"]]
    assert codes == ["weak-start", "no-gain", "promise-broken"]
    assert summary["promise"]["kept"] is False
    assert (folder / "model" / "model.safetensors").exists()
    page = (folder / "report.html").read_text()
    for finding in summary["findings"]:
        line = f"attention: {finding['message']}; {finding['advice']}"
        told = 1 + (finding["code"] == "weak-start")  # as it shows, and in the summary
        assert said.splitlines().count(line) == told
        assert f'"code":"{finding["code"]}"' in page
    assert said.index("attention: before RL") < said.index("it 1/2")  # told when it shows, not only at the end
    assert run(config, folder) == BROKEN
    assert "finished already" in capsys.readouterr().out


def test_a_pretrained_run_killed_after_its_warm_up_starts_rl_from_it(whole: Path, tmp_path: Path) -> None:
    """Without a checkpoint yet, the warm-up's export is all there is of it."""
    base = {"kind": "pretrained", "path": str(whole / "initial")}
    config = tiny(model={"base": base, "threads": 1}, iterations=1)
    assert run(config, tmp_path / "first") == 0
    again = tmp_path / "again"
    again.mkdir()
    for name in ("config.yaml", "run.json"):
        shutil.copy(tmp_path / "first" / name, again)
    shutil.copytree(tmp_path / "first" / "warmup", again / "warmup")
    assert run(config, again) == 0
    assert_same_run(tmp_path / "first", again)


def test_a_stream_with_an_overlong_problem_goes_on_with_the_remedy_of_its_refusal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stream(overlong: str) -> RunConfig:
        train = {"kind": "arithmetic", "steps": [2, 20], "seed": 4}  # problem 5 does not fit
        heldout = {"kind": "arithmetic", "steps": [2, 2]}
        problems = {"train": train, "heldout": heldout, "heldout_size": 4, "overlong": overlong}
        whole = {"groups": 3, "k": 2, "segment_tokens": 30, "max_tokens": 30}  # three new problems an iteration
        return tiny(problems=problems, warmup=None, iterations=3, rollout=whole)

    folder = tmp_path / "run"
    assert run(stream("refuse"), folder) == 1
    said = capsys.readouterr().err
    assert "arithmetic problem 5 (train): the prompt of problem" in said
    assert said.endswith("; set problems.overlong to drop\n")
    assert len(read_metrics(folder)) > 0  # it had come up in a later iteration
    assert run(stream("drop"), folder) == 0
    assert [row["problems/overlong"] for row in read_metrics(folder)][-1] == 1
    assert run(stream("drop"), tmp_path / "whole") == 0
    assert_same_run(tmp_path / "whole", folder)
