"""How learner and engines share the GPUs, and how weights travel: one decision, which all of them read."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
from fake_engine import FakeEngine, flat_logprob, seeded_script
from paths import ROOT
from pydantic import ValidationError

from recipes.run.launching import Site
from rl.bundles import places, total
from rl.config import RunConfig
from rl.learner.spec import Receivers
from rl.placement import engine_gpus, judge_share, learner_gpus, resolve, resolve_alone
from rollout.config import EngineConfig
from rollout.engine import LIGHT
from tests.needs import needs_vllm


def config(**keys: Any) -> RunConfig:
    """A run on GPUs whose dotted keys are given with ``__`` for the dots."""
    tree: dict[str, Any] = {"model": {"device": "cuda"}, "engine": {"device": "cuda"}}
    for key, value in keys.items():
        *sections, name = key.split("__")
        inner = tree
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return RunConfig.model_validate(tree)


def decided(run: RunConfig) -> tuple[str, int, float, float, float | None]:
    engine = run.engine
    shares = learner_gpus(run), engine_gpus(engine, run.ray)
    return engine.weight_transfer, engine.count, *shares, engine.gpu_memory_utilization


@pytest.mark.parametrize(
    ("nodes", "keys", "expected"),
    [
        ([1], {}, ("ipc", 1, 0.5, 0.5, 0.45)),
        ([1], {"engine__count": 0}, ("ipc", 1, 0.5, 0.5, 0.45)),
        ([2], {"engine__count": 0}, ("nccl", 1, 1.0, 1.0, 0.9)),
        ([8], {"engine__count": 0}, ("nccl", 7, 1.0, 1.0, 0.9)),
        ([8, 8], {"engine__count": 0}, ("nccl", 15, 1.0, 1.0, 0.9)),
        ([8], {"engine__count": 0, "engine__tensor_parallel": 2}, ("nccl", 3, 1.0, 2.0, 0.9)),
        ([3, 3], {"engine__count": 0, "engine__tensor_parallel": 2}, ("nccl", 2, 1.0, 2.0, 0.9)),
        ([8], {"engine__count": 0, "learner__ranks": {"shard": 4}}, ("nccl", 4, 1.0, 1.0, 0.9)),
        ([8], {"ray__learner_gpus": 0.6}, ("ipc", 1, 0.6, 0.4, 0.36)),
        ([8], {"ray__engine_gpus": 0.25, "engine__count": 2}, ("ipc", 2, 0.5, 0.25, 0.225)),
        ([8], {"engine__weight_transfer": "ipc"}, ("ipc", 1, 0.5, 0.5, 0.45)),
        ([1], {"engine__weight_transfer": "nccl"}, ("nccl", 1, 1.0, 1.0, 0.9)),
        ([1], {"engine__weight_transfer": "shm"}, ("shm", 1, 0.5, 0.5, 0.45)),
        ([1], {"engine__gpu_memory_utilization": 0.3}, ("ipc", 1, 0.5, 0.5, 0.3)),
        ([1], {"engine__kind": "hf"}, ("shm", 1, 0.5, 0.5, 0.45)),
        ([4], {"engine__kind": "hf", "engine__count": 0}, ("shm", 3, 1.0, 1.0, 0.9)),
        ([4], {"model__device": "cpu", "engine__count": 0}, ("shm", 4, 0.0, 1.0, 0.9)),
        ([4], {"engine__device": "cpu", "engine__count": 0}, ("shm", 1, 1.0, 0.0, None)),
        ([4, 8], {"model__device": "cpu", "engine__count": 0}, ("shm", 8, 0.0, 1.0, 0.9)),
        ([4, 8], {"engine__weight_transfer": "shm", "engine__count": 0}, ("shm", 7, 1.0, 1.0, 0.9)),
        ([0], {"model__device": "cpu", "ray__engine_gpus": 1}, ("shm", 1, 0.0, 1.0, 0.9)),
        ([], {"model__device": "cpu", "engine__device": "cpu"}, ("shm", 1, 0.0, 0.0, None)),
        ([0], {"ray__learner_gpus": 1, "ray__engine_gpus": 1}, ("nccl", 1, 1.0, 1.0, 0.9)),
        ([1], {"ray__deployment": "shared"}, ("ipc", 1, 0.5, 0.5, 0.45)),
        ([8], {"ray__deployment": "shared"}, ("ipc", 1, 0.5, 0.5, 0.45)),
        ([1], {"ray__deployment": "split"}, ("nccl", 1, 1.0, 1.0, 0.9)),
        ([1], {"ray__deployment": "hybrid"}, ("shm", 1, 1.0, 1.0, 0.9)),
        ([8], {"ray__deployment": "hybrid", "engine__count": 0}, ("shm", 8, 1.0, 1.0, 0.9)),
        ([8, 8], {"ray__deployment": "hybrid", "engine__count": 0}, ("shm", 16, 1.0, 1.0, 0.9)),
        (
            [8],
            {
                "ray__deployment": "hybrid",
                "engine__count": 0,
                "engine__tensor_parallel": 4,
                "learner__ranks": {"shard": 8},
            },
            ("shm", 2, 1.0, 4.0, 0.9),
        ),
        ([4], {"ray__deployment": "hybrid", "engine__kind": "hf", "engine__count": 0}, ("shm", 4, 1.0, 1.0, 0.9)),
        (
            [],
            {"ray__deployment": "hybrid", "model__device": "cpu", "engine__device": "cpu"},
            ("shm", 1, 0.0, 0.0, None),
        ),
    ],
)
def test_what_the_configuration_leaves_open_follows_from_the_cluster(
    nodes: list[int], keys: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    assert decided(resolve(config(**keys), nodes)) == pytest.approx(expected)


def test_resolving_twice_changes_nothing() -> None:
    for keys in ({}, {"ray__deployment": "hybrid"}):
        once = resolve(config(engine__count=0, **keys), [8])
        assert resolve(once, [1]) == once


def test_only_engines_that_sleep_on_gpus_are_started_for_it() -> None:
    """vLLM refuses to be told of sleep on a CPU."""
    hybrid, cpus = {"ray__deployment": "hybrid"}, {"model__device": "cpu", "engine__device": "cpu"}
    assert resolve(config(**hybrid, engine__extra={"seed": 1}), [1]).engine.extra == {
        "enable_sleep_mode": True,
        "seed": 1,
    }
    for keys in ({}, hybrid | cpus, hybrid | {"engine__kind": "hf"}):
        assert resolve(config(**keys), [1]).engine.extra == {}


def test_everything_in_one_process_needs_no_transfer() -> None:
    for device in ("cpu", "cuda"):
        keys = {"model__device": device, "engine__device": device, "engine__kind": "hf", "ray__in_process": True}
        assert resolve(config(**keys), ()).engine.weight_transfer == "local"


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"engine__weight_transfer": "ipc", "engine__tensor_parallel": 2}, "weight_transfer ipc .*tensor_parallel 2"),
        ({"engine__weight_transfer": "ipc", "ray__learner_gpus": 1}, "weight_transfer ipc .*ray.learner_gpus 1 on"),
        ({"engine__weight_transfer": "nccl", "ray__engine_gpus": 0.5}, "engine_gpus 0.5 .*weight_transfer nccl"),
        ({"ray__learner_gpus": 0.5, "learner__ranks": {"shard": 2}}, "learner_gpus 0.5 .* a learner of 2 ranks"),
        ({"ray__engine_gpus": 0.5, "engine__tensor_parallel": 2}, "engine_gpus 0.5 .*tensor_parallel 2"),
        ({"ray__learner_gpus": 0.6, "ray__engine_gpus": 0.5}, "come to more than 1"),
        ({"ray__engine_gpus": 0.5, "engine__count": 2}, "2 x ray.engine_gpus are parts of one GPU"),
        ({"ray__learner_gpus": 0}, "ray.learner_gpus is 0"),
        ({"model__device": "cpu", "ray__engine_gpus": 0.5, "engine__tensor_parallel": 2}, "part of one .*parallel 2"),
        ({"engine__weight_transfer": "local"}, "leave it auto, or take ipc or nccl or shm"),
        ({"engine__weight_transfer": "nccl", "model__device": "cpu"}, "nccl .* learner on cpu .* or take shm"),
        ({"engine__weight_transfer": "ipc", "engine__device": "cpu"}, "ipc .* vllm engines on cpu: .* or take shm"),
        ({"engine__weight_transfer": "nccl", "engine__kind": "hf"}, "nccl .* hf engines on cuda: .* or take shm"),
        ({"engine__weight_transfer": "shm", "engine__kind": "hf", "ray__in_process": True}, "in one process: .* local"),
        ({"ray__deployment": "hybrid", "overlap": {"max_staleness": 1}}, "overlap lets .* hybrid they sleep"),
        ({"ray__deployment": "hybrid", "overlap": {"mode": "on_policy"}, "learner__updates": 1}, "overlap lets"),
        ({"ray__deployment": "hybrid", "engine__most": 4}, "engine.most lets .* they have the learner's"),
        ({"ray__deployment": "hybrid", "ray__engine_gpus": 0.5}, "engine_gpus 0.5 .* all of it in its turn"),
        (
            {"ray__deployment": "hybrid", "engine__device": "cpu"},
            "hybrid is for one kind .* engine.device cpu",
        ),
        ({"ray__deployment": "hybrid", "engine__weight_transfer": "nccl"}, "nccl does not work .* or take shm"),
        ({"ray__deployment": "hybrid", "engine__weight_transfer": "ipc"}, "ipc does not work .* or take shm"),
        ({"ray__deployment": "hybrid", "engine__extra": {"enable_sleep_mode": False}}, "enable_sleep_mode is off"),
        (
            {"ray__deployment": "shared", "model__device": "cpu", "engine__device": "cpu"},
            "for parts of a GPU",
        ),
        (
            {"ray__deployment": "shared", "engine__tensor_parallel": 2},
            "shared puts .*tensor_parallel 2 on several",
        ),
        ({"ray__deployment": "split", "ray__learner_gpus": 0.5}, "learner_gpus 0.5 .* and ray.deployment split on"),
        ({"ray__deployment": "split", "engine__kind": "hf", "ray__in_process": True}, "split places Ray actors"),
    ],
)
def test_what_cannot_work_is_refused_in_the_configuration(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told) as refused:
        config(**keys)
    (detail,) = refused.value.errors()
    assert "\n" not in detail["msg"]


def test_a_cluster_without_gpus_is_told_at_once() -> None:
    with pytest.raises(
        ValueError, match=r"^model.device is cuda, and the Ray cluster has no GPU; .* give ray.learner_gpus"
    ):
        resolve(config(), [0, 0])
    with pytest.raises(ValueError, match=r"^engine.device is cuda, .* give ray.engine_gpus and engine.count$"):
        resolve(config(model__device="cpu", engine__count=0), [])


@needs_vllm
@pytest.mark.parametrize("nodes", [[1], [2], [8]])
@pytest.mark.parametrize("kind", ["vllm", "hf"])
@pytest.mark.parametrize("devices", list(product(("cpu", "cuda"), repeat=2)))
def test_learner_and_engines_are_told_the_same(nodes: list[int], kind: str, devices: tuple[str, str]) -> None:
    """With two GPUs the learner broadcast, and the engine waited for handles of a shared one."""
    from rollout.engines.vllm_arguments import engine_arguments

    run = resolve(config(model__device=devices[0], engine__device=devices[1], engine__kind=kind), nodes)
    receivers = Receivers.of(run, run.engine.weight_transfer)
    assert receivers.backend != "auto"
    arguments = engine_arguments("m", run.engine, 0)
    assert arguments["weight_transfer_config"] == {"backend": "k15"}  # which takes them as the learner says they come
    wanted = places(run, [{"CPU": 16.0, "GPU": 8.0}])
    assert len(wanted.bundles) == (1 + run.engine.count if receivers.backend == "nccl" else 1)
    assert total(wanted.bundles).get("GPU", 0) == learner_gpus(run) + run.engine.count * engine_gpus(
        run.engine, run.ray
    )


def test_each_engine_is_whole_on_one_node() -> None:
    nodes = [{"CPU": 16.0, "GPU": 8.0}] * 2
    run = resolve(config(engine__tensor_parallel=4, engine__count=0), [8, 8])
    assert places(run, nodes).bundles == ({"CPU": 1.0, "GPU": 1.0}, *[{"CPU": 1.0, "GPU": 4.0}] * 3)
    assert places(resolve(config(), [1]), nodes).bundles == ({"CPU": 2.0, "GPU": 1.0},)


def test_engines_without_a_learner_fill_the_cluster() -> None:
    """And have their GPUs to themselves, whatever the run that the model is from had."""
    ray = RunConfig().ray
    cuda = EngineConfig(device="cuda", count=0, weight_transfer="nccl")
    engine, placed = resolve_alone(cuda.model_copy(update={"tensor_parallel": 2}), ray, [4, 3])
    assert (engine.count, engine.weight_transfer, engine.gpu_memory_utilization) == (3, "auto", 0.9)
    assert engine_gpus(engine, placed) == 2.0
    assert resolve_alone(cuda, ray, [1])[0].count == 1
    assert resolve_alone(EngineConfig(count=0), ray, [0, 0, 0])[0].count == 3
    assert resolve_alone(EngineConfig(count=2), ray, [0])[0].count == 2
    half = ray.model_copy(update={"engine_gpus": 0.5})
    engine, placed = resolve_alone(cuda, half, [1])
    assert (engine.count, engine.gpu_memory_utilization, engine_gpus(engine, placed)) == (2, 0.45, 0.5)


def test_a_judge_has_gpus_of_its_own_or_the_part_that_the_policys_engines_leave() -> None:
    cuda, ray = EngineConfig(device="cuda"), RunConfig().ray
    parts = ray.model_copy(update={"engine_gpus": 0.6})
    shared = ray.model_copy(update={"engine_gpus": 0.3, "learner_gpus": 0.4})
    assert [judge_share(place, cuda, ray) for place in ("auto", "own")] == [1.0, 1.0]
    assert [judge_share(place, cuda, parts) for place in ("auto", "beside", "own")] == [0.4, 0.4, 1.0]
    assert judge_share("beside", cuda, shared) == 0.3
    assert judge_share("beside", EngineConfig(), ray) == 0.0
    with pytest.raises(ValueError, match=r"none is left of those: lower ray\.engine_gpus"):
        judge_share("beside", cuda, ray)
    with pytest.raises(ValueError, match="tensor_parallel is 2"):
        judge_share("beside", cuda.model_copy(update={"tensor_parallel": 2}), parts)


def test_a_site_in_this_process_hands_its_decision_to_the_learner() -> None:
    tree = {"engine": {"kind": "hf", "count": 0}, "ray": {"in_process": True}}
    with ExitStack() as stack:
        site = Site(RunConfig.model_validate(tree), stack, lambda: None)
    assert (site.config.engine.weight_transfer, site.config.engine.count) == ("local", 1)
    assert not site.engines_first


class SlowEngine(FakeEngine):
    """Tells when its start is over, which ends when ``until`` holds."""

    def __init__(self, told: list[str], until: Callable[[], bool]) -> None:
        super().__init__(seeded_script(), flat_logprob)
        self.told, self.until = told, until

    async def start(self) -> None:
        for _ in range(100):
            await asyncio.sleep(0)
        while not self.until():
            await asyncio.sleep(0.001)
        await super().start()
        self.told.append("engine")


@pytest.mark.parametrize("shared", [True, False])
def test_on_a_shared_gpu_engines_come_first_and_elsewhere_both_at_once(
    shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM takes what is allocated while it measures its memory for its own. Apart, the engine here waits for the
    learner: one after the other would wait for ever."""
    told: list[str] = []
    run = config() if shared else config(model__device="cpu", engine__device="cpu")
    monkeypatch.setattr("rl.launch.connected", lambda _: nullcontext())
    monkeypatch.setattr("rl.launch.gpus_by_node", lambda: [1])
    monkeypatch.setattr("rl.launch.place", lambda _: "places")
    monkeypatch.setattr(
        "rl.launch.launch_engine", lambda *_: SlowEngine(told, lambda: True if shared else "learner" in told)
    )
    monkeypatch.setattr("rl.launch.launch_learner", lambda *_: told.append("learner"))
    with ExitStack() as stack:
        site = Site(run, stack, lambda: None)
        pool = site.engines("model", (1,))
        site.learner(run, "model")
        pool.wait()
    assert told == (["engine", "learner"] if shared else ["learner", "engine"])


def test_in_turn_engines_come_first_and_sleep_before_a_learner_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not exist yet cannot leave a GPU, and vLLM measures what is free there."""
    made: list[FakeEngine] = []
    levels: list[int] = []

    def launch_engine(*_: object) -> FakeEngine:
        made.append(FakeEngine())
        return made[-1]

    def launch_learner(*_: object) -> SimpleNamespace:
        levels.extend(engine.rest.level for engine in made)
        return SimpleNamespace(claim=None, onload=lambda: None, offload=lambda: None)

    monkeypatch.setattr("rl.launch.connected", lambda _: nullcontext())
    monkeypatch.setattr("rl.launch.gpus_by_node", lambda: [2])
    monkeypatch.setattr("rl.launch.place", lambda _: "places")
    monkeypatch.setattr("rl.launch.launch_engine", launch_engine)
    monkeypatch.setattr("rl.launch.launch_learner", launch_learner)
    with ExitStack() as stack:
        site = Site(config(ray__deployment="hybrid", engine__count=0), stack, lambda: None)
        pool = site.engines("model", (1,))
        site.learner(config(ray__deployment="hybrid"), "model").claim()
        assert levels == [LIGHT, LIGHT]
        pool.wait()
        assert [engine.rest.level for engine in made] == [0, 0]


PLACES = """
import json, os, sys, ray
from ray.util.placement_group import remove_placement_group
from rl.config import RunConfig
from rl.launch import engine_options, place, quiet_environment, rank_options, resolved

def devices():
    return os.environ["CUDA_VISIBLE_DEVICES"]

os.environ.update(quiet_environment())
for gpus, *trees in json.loads(sys.argv[1]):
    ray.init(
        "local", num_cpus=12, num_gpus=gpus, include_dashboard=False, logging_level="ERROR", log_to_driver=False,
        _system_config={"prestart_worker_first_driver": False},
    )
    for tree in trees:
        run = resolved(RunConfig.model_validate(tree))
        reserved = place(run, 60)
        options = [rank_options(run, reserved, rank) for rank in range(run.learner.ranks.size)]
        options += [engine_options(run, reserved, index) for index in range(run.engine.count)]
        tasks = [ray.remote(devices).options(**{k: v for k, v in o.items() if k != "max_restarts"}) for o in options]
        print(json.dumps(ray.get([task.remote() for task in tasks])), flush=True)
        remove_placement_group(reserved.group)
    ray.shutdown()
"""


@pytest.mark.slow
def test_ray_hands_out_the_gpus_as_decided() -> None:
    """A cluster that is told that it has GPUs; each line: what the ranks of the learner and the engines see."""
    pytest.importorskip("ray")
    base = {"model": {"device": "cuda"}, "engine": {"device": "cuda", "count": 0}}
    pairs = base | {"engine": {"device": "cuda", "count": 0, "tensor_parallel": 2}}
    ranks = base | {"learner": {"ranks": {"shard": 2}}}
    turns = [
        tree | {"ray": {"deployment": "hybrid"}} for tree in (base, pairs, pairs | {"learner": {"ranks": {"shard": 4}}})
    ]
    asked = [[1, base], [4, base, pairs, ranks, *turns]]
    done = subprocess.run(
        [sys.executable, "-c", PLACES, json.dumps(asked)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    shared, apart, parallel, sharded, *turns = map(json.loads, done.stdout.splitlines())
    assert shared == ["0", "0"]
    assert sorted(apart) == ["0", "1", "2", "3"]
    learner, engine = parallel
    assert len(engine.split(",")) == 2
    assert learner not in engine.split(",")
    assert sorted(sharded) == ["0", "1", "2", "3"]
    assert turns == [["0", "0", "1", "2", "3"], ["0", "0,1", "2,3"], ["0", "1", "2", "3", "0,1", "2,3"]]
