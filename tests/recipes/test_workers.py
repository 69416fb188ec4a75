"""Learner and engines that stay up between the stages of `k15 shorten`: in which order they start."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from fake_engine import FakeEngine, flat_logprob, seeded_script

from recipes.shorten.workers import Workers
from rl.config import RunConfig
from rl.stop import Stopper
from tests.tiny_models import tiny_llama


class Proxy:
    """Stands in for a learner's actor."""

    def replace(self, *_: object) -> None:
        """See ``RayPolicy``."""


@pytest.mark.parametrize(("device", "learners"), [("cuda", 2), ("cpu", 1)])
def test_a_learner_on_the_engines_gpu_starts_again_behind_them(
    device: str, learners: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage that only trains (DPO) comes first: what its learner has allocated would be counted as vLLM's."""
    tiny_llama().save_pretrained(tmp_path)
    run = RunConfig.model_validate({"model": {"device": device}, "engine": {"device": device}})
    made: list[str] = []

    def learner(*_: object) -> Proxy:
        made.append("learner")
        return Proxy()

    def engine(*_: object) -> FakeEngine:
        made.append("engine")
        return FakeEngine(seeded_script(), flat_logprob)

    monkeypatch.setattr("rl.launch.connected", lambda _: nullcontext())
    monkeypatch.setattr("rl.launch.gpus_by_node", lambda: [1])
    monkeypatch.setattr("rl.launch.place", lambda _: "places")
    monkeypatch.setattr("rl.launch.launch_learner", learner)
    monkeypatch.setattr("rl.launch.launch_engine", engine)
    with Stopper() as stopper, Workers(stopper) as workers:
        workers.learner(run, tmp_path)
        machines = workers.machines(run, tmp_path, (1,))
        machines.pool.wait()
        assert workers.machines(run, tmp_path, (1,)).pool is machines.pool
    assert made.count("learner") == learners
    assert made.count("engine") == 1
    if learners == 2:
        assert made == ["learner", "engine", "learner"]
