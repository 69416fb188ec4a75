"""Engines in real Ray actors: killed, orphaned, silent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from factories import problem
from tiny_models import log_probs, tiny_llama

from rl.config import RunConfig
from rl.launch import launch_engine, place
from rl.learner.learner import Learner
from rl.learner.spec import LearnerSpec
from rollout.config import EngineConfig, RolloutConfig
from rollout.engine import Delta, EngineDead, EngineTimeout, Request
from rollout.engines.actor import RayEngine, build_engine, environment
from rollout.engines.hf import HfEngine
from rollout.pool.pool import Pool
from rollout.transfer.weights import ShmSender
from rollout.types import Group, Prompt, Rollout
from tests.processes import PATIENCE_S, running, until_gone

pytestmark = pytest.mark.slow

CONFIG = EngineConfig(kind="hf", max_model_len=256, max_concurrency=8, threads=1, call_timeout_s=PATIENCE_S)
ROLLOUT = RolloutConfig(segment_tokens=200, max_tokens=200, repetition=None)
OPTIONS = {"num_cpus": 0.1}


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    tiny_llama().save_pretrained(path)
    return path


def make_groups() -> list[Group]:
    return [
        Group(f"g{i}", problem(i), tuple(Rollout(f"g{i}/{j}", Prompt((1, 2, 3 + i))) for j in range(4)), 0)
        for i in range(4)
    ]


def tokens(groups: list[Group]) -> list[list[tuple[int, ...]]]:
    return [[tuple(rollout.token_ids.tolist()) for rollout in group.rollouts] for group in groups]


def test_an_engine_on_another_machine_takes_weights_from_the_object_store(ray_cluster: str, model_path: Path) -> None:
    """It asks nobody: a restarted engine gets them while the learner is busy."""
    import ray

    source, model = ShmSender("nccl", "module", ray.put), tiny_llama(seed=3)
    update = source.send(model, 4)
    elsewhere = replace(update, payload={**update.payload, "machine": "another"})
    source.close()

    async def scores() -> list[list[float]]:
        engine = RayEngine(str(model_path), CONFIG, 0, OPTIONS)
        await engine.start()
        try:
            await engine.update_weights(elsewhere)
            assert (await engine.stats()).version == 4
            return await engine.score([[1, 2, 3, 4, 5]])
        finally:
            await engine.close()

    assert asyncio.run(scores())[0] == pytest.approx(log_probs(model, [1, 2, 3, 4, 5]), abs=1e-4)


class Unfinished(RayEngine):
    """Never gets the last request, so it cannot be done before it is killed, however late that is."""

    async def submit(self, requests: Sequence[Request]) -> None:
        await super().submit(requests[:-1])


def test_sigkill_while_serving_loses_no_token(ray_cluster: str, model_path: Path) -> None:
    """The run goes on in a new actor, under the published weights, and every token polled is kept."""
    made: list[RayEngine] = []

    def spawn(index: int) -> RayEngine:
        kind = RayEngine if made else Unfinished
        made.append(kind(str(model_path), CONFIG, 0, OPTIONS))
        return made[-1]

    heard: list[Delta] = []
    killed: list[int] = []
    at_kill: list[int] = []

    def listen(deltas: list[Delta]) -> None:
        heard.extend(deltas)
        if not killed and sum(len(delta.token_ids) for delta in heard) >= 8:
            assert made[0].pid is not None
            at_kill.append(sum(delta.done for delta in heard))
            killed.append(made[0].pid)
            os.kill(made[0].pid, signal.SIGKILL)

    model, sender = tiny_llama(seed=5), ShmSender()
    probe = [[1, 2, 3, 4, 5, 6, 7]]
    with Pool(spawn, CONFIG, ROLLOUT, seed=1) as pool:
        report = pool.publish(sender.send(model, 1), probe, [log_probs(model, probe[0])])
        assert report.max_gap < 1e-5
        assert report.bytes > 0
        result = pool.extend(make_groups(), 1, listen)
        stats = pool.stats()
    assert at_kill[0] < 16
    assert len(killed) == 1
    assert len(made) == 2
    assert stats.failures == 1
    with Pool(lambda i: HfEngine(str(model_path), CONFIG), CONFIG, ROLLOUT, seed=1) as pool:
        pool.publish(sender.send(model, 1), [], [])
        assert tokens(result) == tokens(pool.extend(make_groups(), 1))
    assert sum(len(delta.token_ids) for delta in heard) == sum(r.length for g in result for r in g.rollouts)
    assert any(rollout.failures for group in result for rollout in group.rollouts)
    until_gone(engine.pid for engine in made if engine.pid)
    sender.close()


def test_an_engine_killed_in_its_sleep_is_replaced_when_the_pool_wakes(ray_cluster: str, model_path: Path) -> None:
    """Not before: its successor would come up on a device that somebody else has."""
    made: list[RayEngine] = []

    def spawn(_: int) -> RayEngine:
        made.append(RayEngine(str(model_path), CONFIG, 0, OPTIONS))
        return made[-1]

    model, sender = tiny_llama(seed=5), ShmSender()
    probe = [[1, 2, 3, 4, 5, 6, 7]]
    with Pool(spawn, CONFIG, ROLLOUT, seed=1) as pool:
        pool.publish(sender.send(model, 1), probe, [log_probs(model, probe[0])])
        before = tokens(pool.extend(make_groups(), 1))
        for killed in (False, True):
            pool.sleep()
            if killed:
                assert made[0].pid is not None
                os.kill(made[0].pid, signal.SIGKILL)
                until_gone([made[0].pid])
            pool.stats()
            assert len(made) == 1
            pool.wake()
            assert tokens(pool.extend(make_groups(), 1)) == before
        assert len(made) == 2
    sender.close()


def test_errors_are_named(ray_cluster: str, model_path: Path, tmp_path: Path) -> None:
    async def main() -> None:
        missing = RayEngine(str(tmp_path / "nowhere"), CONFIG, 0, OPTIONS)
        with pytest.raises(EngineDead, match="nowhere"):
            await missing.start()
        await missing.close()

        engine = RayEngine(str(model_path), CONFIG, 0, OPTIONS)
        await engine.start()
        assert (await engine.stats()).version == 0
        assert await engine.poll(0.05) == []
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGSTOP)
        engine.config = CONFIG.model_copy(update={"call_timeout_s": 0.5})
        with pytest.raises(EngineTimeout, match="did not answer stats within"):
            await engine.stats()
        os.kill(engine.pid, signal.SIGKILL)
        engine.config = CONFIG
        with pytest.raises(EngineDead, match="died during stats"):
            await engine.stats()
        await engine.close()
        await engine.close()
        with pytest.raises(EngineDead, match="closed"):
            await engine.stats()

    asyncio.run(main())


def test_a_runs_block_attention_reaches_its_engines_actor(ray_cluster: str, tmp_path: Path) -> None:
    """From the run's configuration on; that the engines compute it as the learner does: ``test_moba_vllm.py``."""
    tiny_llama(num_hidden_layers=2).save_pretrained(tmp_path)
    block = {"block_size": 32, "top_k": 2, "full_last_layers": 1}
    base = {"kind": "pretrained", "path": str(tmp_path)}
    trees = [{"base": base, "threads": 1, "attention": {"moba": moba}} for moba in (block, None)]
    sparse, dense = (RunConfig.model_validate({"model": tree, "engine": CONFIG, "rollout": ROLLOUT}) for tree in trees)
    row = [(7 * i) % 31 + 1 for i in range(200)]

    async def main() -> list[float]:
        engine = launch_engine(sparse, tmp_path, place(sparse), 0)
        await engine.start()
        (scores,) = await engine.score([row])
        await engine.close()
        return scores

    scores = asyncio.run(main())
    ours, full = (Learner(LearnerSpec.of(config), tmp_path).score([row])[0] for config in (sparse, dense))
    assert scores == pytest.approx(ours, abs=1e-4)
    assert scores[:63] == pytest.approx(full[:63], abs=1e-4), "early positions see everything"
    assert scores != pytest.approx(full, abs=0.1)
    vllm = build_engine(str(tmp_path), EngineConfig(), 0, sparse.model.attention)
    assert vllm.attention == sparse.model.attention


def test_environment_is_set_before_the_engine_is_imported() -> None:
    vllm = environment(EngineConfig(threads=3))
    assert vllm["OMP_NUM_THREADS"] == "3"
    assert vllm["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert vllm["TORCH_COMPILE_DISABLE"] == "1"  # no compiler at run time, no code compiled for another CPU
    assert environment(EngineConfig(device="cuda")).get("VLLM_ENABLE_V1_MULTIPROCESSING") is None
    assert environment(EngineConfig(kind="hf", threads=2)) == {"OMP_NUM_THREADS": "2"}


DRIVER = """
import asyncio, sys, time, ray
from rollout.config import EngineConfig
from rollout.engines.actor import RayEngine
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
async def main():
    engine = RayEngine(sys.argv[2], EngineConfig(kind="hf", max_model_len=256, threads=1), 0, {"num_cpus": 0.1})
    await engine.start()
    print(engine.pid, flush=True)
asyncio.run(main())
time.sleep(6000)
"""


def test_killing_the_driver_ends_its_actors(ray_cluster: str, model_path: Path) -> None:
    """On a cluster that goes on without it, where no guard watches; with one of its own: ``test_cluster.py``."""
    command = [sys.executable, "-c", DRIVER, ray_cluster, str(model_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as driver:
        assert driver.stdout is not None
        pid = int(driver.stdout.readline())
        assert running(pid)
        driver.kill()
    until_gone([pid])
