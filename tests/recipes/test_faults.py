"""Whole runs in one process that something happens to: a full disk, files that cannot grow, dying engines.

SIGKILL for actors and for the driver: ``test_cluster.py``."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from fake_engine import FakeEngine, Faults
from run_kit import assert_same_run, tiny, tokens, weights

from recipes.run.session import run
from rl.record.log import read_metrics
from rl.state.checkpoint import fault
from rollout.config import EngineConfig, RolloutConfig
from rollout.engine import AllEnginesDead, Delta, EngineDead, Request, Sampling
from rollout.engines.hf import HfEngine
from rollout.pool.pool import Pool
from rollout.types import Prompt


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
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


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
        self.spoke = any(delta.version == 1 and len(delta.token_ids) for delta in deltas)
        return [first_token(delta) for delta in deltas] if self.spoke else deltas


def first_token(delta: Delta) -> Delta:
    return replace(delta, token_ids=delta.token_ids[:1], logprobs=delta.logprobs[:1], done=False, stop=None)


def test_an_engine_that_draws_a_few_tokens_and_dies_every_time_ends_the_run_which_resumes(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[Doomed] = []

    def build(path: str, config: EngineConfig, seed: int, *_: object) -> Doomed:
        made.append(Doomed(path, config, seed))
        return made[-1]

    with monkeypatch.context() as patch:
        patch.setattr("rollout.engines.actor.build_engine", build)
        assert run(tiny(), tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert error.startswith("k15: all 1 rollout engines are dead: 3 restarts in a row")
    assert "out of memory" in error
    assert len(made) == 4
    assert (tmp_path / "run" / "journal" / "000001.arrow").stat().st_size > 0
    assert run(tiny(), tmp_path / "run") == 0
    assert_same_up_to_rounding(whole, tmp_path / "run")


def assert_same_up_to_rounding(one: Path, other: Path) -> None:
    """Same tokens. A stretch that another engine goes on with is read in one pass instead of token by token, and
    whether products of other shapes round alike is up to the CPU."""
    for (name, ids, logprobs), (other_name, other_ids, other_logprobs) in zip(tokens(one), tokens(other), strict=True):
        assert (name, ids) == (other_name, other_ids)
        assert logprobs == pytest.approx(other_logprobs, abs=1e-4)
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-3) for name in ours)


@pytest.mark.parametrize(("tokens_before_death", "survives"), [(3, False), (30, True)])
def test_an_engine_is_given_up_when_it_finishes_no_request_in_several_lives(
    tokens_before_death: int, survives: bool
) -> None:
    """Eight requests of 12 tokens, one at a time: a life of 30 tokens finishes two or three, three lives of 3 none."""
    config = EngineConfig(kind="hf", max_model_len=64, max_concurrency=1, max_restarts=2, call_timeout_s=2.0)
    rollout = RolloutConfig(segment_tokens=12, max_tokens=12, max_failures=50, repetition=None)
    requests = [Request(f"r{i}", Prompt((1, 2)), 12, Sampling(), seed=i) for i in range(8)]
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
