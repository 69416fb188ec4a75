"""Whole runs that something happens to: a full disk, dying engines, SIGKILL for an actor and for the driver."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from test_run import assert_same_run, tiny

from recipes.run import run
from rl.checkpoint import fault
from rl.log import read_metrics
from rollout.config import EngineConfig, RolloutConfig
from rollout.engine import AllEnginesDead, Delta, EngineDead, Request, Sampling
from rollout.fake_engine import FakeEngine, Faults
from rollout.hf_engine import HfEngine
from rollout.pool import Pool
from rollout.serial import delta_from_json


class Disk:
    """A small file system of its own."""

    def __init__(self, root: Path, kib: int) -> None:
        self.root = root
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(root)], check=True)

    def grow(self) -> None:
        subprocess.run(["mount", "-o", "remount,size=64m", str(self.root)], check=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert run(tiny(), folder) == 0
    return folder


def assert_nothing_half_written(folder: Path) -> None:
    for path in (folder / "checkpoints").glob("[0-9]*"):
        assert fault(path) == ""
    for path in (folder / "rollouts").glob("[0-9]*.parquet"):
        pq.read_table(path)
    for path in [*folder.glob("*.json"), *folder.glob("eval/*.json"), *folder.glob("warmup/warmup.json")]:
        json.loads(path.read_text())
    read_metrics(folder)


@pytest.mark.parametrize("kib", [16, 60, 80, 120, 180, 220, 260, 320])
def test_a_full_disk_ends_the_run_in_one_line_and_it_resumes_bit_for_bit(
    kib: int, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sizes fill up in the first export, the warm-up, an evaluation, checkpoints, the end."""
    try:
        disk = Disk(tmp_path, kib)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a file system takes root")
    try:
        assert run(tiny(), tmp_path / "run") == 1
        error = capsys.readouterr().err
        assert error.startswith("k15: ")
        assert str(tmp_path) in error
        assert len(error.strip().splitlines()) == 1
        assert_nothing_half_written(tmp_path / "run")
        disk.grow()
        assert run(tiny(), tmp_path / "run") == 0
        assert (tmp_path / "run" / "report.html").exists()
        assert_same_run(whole, tmp_path / "run")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.fixture
def largest_file() -> Iterator[int]:
    """No file may grow beyond so many bytes: the nearest to a full disk without root."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, hard))
    yield 9000
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_cannot_grow_ends_the_run_in_one_line(
    largest_file: int, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny(), tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert "File too large" in error
    assert str(tmp_path) in error
    assert len(error.strip().splitlines()) == 1
    assert_nothing_half_written(tmp_path / "run")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert run(tiny(), tmp_path / "run") == 0
    assert_same_run(whole, tmp_path / "run")


class Doomed(HfEngine):
    """Dies after it has handed out one token of each request under version 1."""

    async def poll(self, wait_s: float) -> list[Delta]:
        if getattr(self, "spoke", False):
            raise EngineDead("out of memory")
        deltas = await super().poll(wait_s)
        self.spoke = any(delta.version == 1 and delta.token_ids for delta in deltas)
        return [first_token(delta) for delta in deltas] if self.spoke else deltas


def first_token(delta: Delta) -> Delta:
    return replace(delta, token_ids=delta.token_ids[:1], logprobs=delta.logprobs[:1], done=False, stop=None)


def test_an_engine_that_draws_a_few_tokens_and_dies_every_time_ends_the_run_which_resumes_bit_for_bit(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[Doomed] = []

    def build(path: str, config: EngineConfig, seed: int, *_: object) -> Doomed:
        made.append(Doomed(path, config, seed))
        return made[-1]

    with monkeypatch.context() as patch:
        patch.setattr("rollout.worker.build_engine", build)
        assert run(tiny(), tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert error.startswith("k15: all 1 rollout engines are dead: 3 restarts in a row")
    assert "out of memory" in error
    assert len(made) == 4
    assert (tmp_path / "run" / "journal" / "000001.jsonl").stat().st_size > 0
    assert run(tiny(), tmp_path / "run") == 0
    assert_same_run(whole, tmp_path / "run")


@pytest.mark.parametrize(("tokens_before_death", "survives"), [(3, False), (30, True)])
def test_an_engine_is_given_up_when_it_finishes_no_request_in_several_lives(
    tokens_before_death: int, survives: bool
) -> None:
    """Eight requests of 12 tokens, one at a time: a life of 30 tokens finishes two or three, three lives of 3 none."""
    config = EngineConfig(kind="fake", max_model_len=64, max_concurrency=1, max_restarts=2, call_timeout_s=2.0)
    rollout = RolloutConfig(segment_tokens=12, max_tokens=12, max_failures=50, repetition=None)
    requests = [Request(f"r{i}", (1, 2), 12, Sampling(), seed=i) for i in range(8)]
    made: list[FakeEngine] = []

    def spawn(index: int) -> FakeEngine:
        made.append(FakeEngine(faults=Faults(die_after=tokens_before_death), chunk=12))
        return made[-1]

    with Pool(spawn, config, rollout) as pool:
        if survives:
            assert [len(item.token_ids) for item in pool.generate(requests)] == [12] * 8
            assert len(made) > 3
        else:
            with pytest.raises(AllEnginesDead, match="2 restarts in a row"):
                pool.generate(requests)
            assert len(made) == 3


def test_a_terminal_without_unicode_ends_no_run(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(tiny(iterations=2).model_dump(mode="json")))
    plain = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    run_dir = tmp_path / "run"
    k15 = str(Path(sys.executable).parent / "k15")
    for command in (["train", "--config", str(config), "--run-dir", str(run_dir)], ["report", str(run_dir)]):
        done = subprocess.run([k15, *command], env={**os.environ, **plain}, capture_output=True, timeout=280)
        assert done.returncode == 0, done.stderr
        assert done.stdout.isascii()
    assert (run_dir / "report.html").exists()


LONG = """
iterations: 5
model: {base: {kind: scratch, layers: 1, width: 64, heads: 2, kv_heads: 2, mlp_width: 64, context: 512}, threads: 1}
problems:
  train: {kind: arithmetic, steps: [2, 2]}
  heldout: {kind: arithmetic, steps: [2, 2]}
  heldout_size: 4
engine: {kind: vllm, max_model_len: 448, max_concurrency: 64, kv_cache_gib: 0.2, threads: 1}
rollout: {groups: 12, k: 4, segment_tokens: 384, max_tokens: 384, repetition: null}
learner: {updates: 2}
eval: {every: 0, samples: 1, greedy: false}
checkpoint: {every: 2}
log: {live: false}
"""
"""Untrained, so responses are long; the budget is the cap, so each rollout ends in the iteration that began it."""


class Train:
    """``k15 train`` as a process of its own, in a session of its own."""

    def __init__(self, folder: Path, log: str) -> None:
        self.run = folder / "run"
        config = folder / "config.yaml"
        config.write_text(LONG)
        self.output = folder / log
        command = [
            str(Path(sys.executable).parent / "k15"),
            "train",
            "--config",
            str(config),
            "--run-dir",
            str(self.run),
        ]
        with self.output.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)

    def wait_for_tokens(self, iteration: int, more_than: int = 0) -> dict[str, list[int]]:
        """Returns the journal of ``iteration`` as soon as it has more than so many bytes."""
        path = self.run / "journal" / f"{iteration:06d}.jsonl"
        end = time.monotonic() + 280
        while not (path.exists() and path.stat().st_size > more_than):
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < end, f"no tokens of iteration {iteration} in time"
            time.sleep(0.002)
        return self.journalled(iteration)

    def journalled(self, iteration: int) -> dict[str, list[int]]:
        """Tokens by rollout in the whole lines of the journal."""
        *lines, _torn = (self.run / "journal" / f"{iteration:06d}.jsonl").read_text().split("\n")
        tokens: dict[str, list[int]] = {}
        for line in lines:
            for item in json.loads(line):
                delta = delta_from_json(item)
                tokens.setdefault(delta.key, []).extend(delta.token_ids)
        return tokens

    def stored(self, iteration: int) -> dict[str, list[int]]:
        """Tokens by rollout in the iteration's Parquet file."""
        rows = pq.read_table(self.run / "rollouts" / f"{iteration:06d}.parquet").to_pylist()
        return {row["rollout"]: row["token_ids"] for row in rows}

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


def assert_kept(journalled: dict[str, list[int]], stored: dict[str, list[int]]) -> None:
    assert any(journalled.values())
    for rollout, tokens in journalled.items():
        assert stored[rollout][: len(tokens)] == tokens


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sigkill_for_a_rollout_actor_then_for_the_driver_loses_no_token(tmp_path: Path) -> None:
    """Real Ray and vLLM. The actor goes in iteration 1, the driver in iteration 3; the resumed run replays 2 and 3."""
    train = Train(tmp_path, "first.log")
    seen: list[psutil.Process] = []
    try:
        train.wait_for_tokens(1)
        (worker,) = (one for one in train.family() if one.name().startswith("ray::RolloutWor"))
        at_first_kill = train.journalled(1)
        worker.kill()
        train.wait_for_tokens(2)
        seen = train.family()
        train.wait_for_tokens(3)
    finally:
        train.process.kill()
        train.process.wait()
    assert "engine 0 failed: engine actor died" in train.output.read_text()
    assert any("EngineCore" in one.name() for one in seen), "vLLM's own process was not seen, so not watched"
    _, alive = psutil.wait_procs(seen, timeout=60)
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []
    assert not (train.run / "rollouts" / "000003.parquet").exists(), "killed too late: the iteration was over"
    assert sorted(path.name for path in (train.run / "checkpoints").iterdir()) == ["000002"]
    at_kill, replayed = train.journalled(3), train.stored(2)
    assert_kept(at_first_kill, train.stored(1))

    again = Train(tmp_path, "second.log")
    assert again.process.wait(400) == 0, again.output.read_text()
    assert json.loads((train.run / "summary.json").read_text())["iterations"] == 5
    assert_kept(at_kill, train.stored(3))
    assert train.stored(2) == replayed
    assert_kept(at_first_kill, train.stored(1))
