"""The options of ``k15 eval``, and the check that they fit together."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from evals.benchmark import Benchmark
from evals.benchmarks import get
from evals.data import Choice
from evals.prompting import Thinking
from rollout.evidence.config import MergingConfig
from rollout.plain import one_line
from rollout.reward_models.config import RewardModelConfig

HELDOUT = "heldout"
"""The held-out problems of a run directory, as its own evaluation puts them."""


class EvalError(ValueError):
    """The command cannot be carried out as it is; one line."""


@dataclass(frozen=True)
class Options:
    """The options given; ``None``: the benchmark's, the run's or the model's own."""

    benchmarks: tuple[str, ...]
    model: str = ""
    predictions: Path | None = None
    data: Path | None = None
    out: Path | None = None
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    system: str | None = None
    shots: int = 0
    thinking: Thinking = "default"
    pass_ks: tuple[int, ...] = ()
    choice: Choice = field(default_factory=Choice)
    lengths: tuple[int, ...] = ()
    """Needle test: context lengths; empty: powers of two from 1,024 up to the model's context, at most 131,072."""
    depths: tuple[int, ...] = (0, 25, 50, 75, 100)
    trials: int = 3
    engine: Literal["vllm", "hf"] | None = None
    engines: int | None = None
    device: Literal["cpu", "cuda"] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    tensor_parallel: int | None = None
    kv_cache_gib: float | None = None
    ray_address: str | None = None
    concurrency: int = 32
    served_model: str | None = None
    judge: RewardModelConfig | None = None
    """A reward model behind the rule, in place of a run's own."""
    fuse: tuple[MergingConfig, ...] = ()
    """Ways in which the answers to a problem are fused into one, beside the vote."""


def chosen(options: Options) -> list[Benchmark]:
    """Return the benchmarks named, with the settings asked for. Raises ``EvalError`` or ``UnknownBenchmark``."""
    if len(set(options.benchmarks)) != len(options.benchmarks):
        raise EvalError("a benchmark is named twice")
    found = [get(name) for name in options.benchmarks if name != HELDOUT]
    if options.data is not None and options.data.is_file() and len(options.benchmarks) > 1:
        raise EvalError(f"--data {options.data} is one file, for one benchmark; name its folder to evaluate several")
    for benchmark in found:
        if options.shots and benchmark.shots is None:
            raise EvalError(f"{benchmark.name} has no solved examples for --shots")
    return [with_settings(benchmark, options) for benchmark in found]


def with_settings(benchmark: Benchmark, options: Options) -> Benchmark:
    """Return the benchmark with the command line's settings. Raises ``EvalError`` when they contradict each other."""
    benchmark = benchmark.with_settings(
        samples=options.n,
        temperature=options.temperature,
        top_p=options.top_p,
        max_tokens=options.max_tokens,
        system=options.system,
    )
    if options.predictions is None:
        check_pass_ks(options.pass_ks, benchmark.samples)
    return benchmark


def check_pass_ks(ks: Sequence[int], samples: int) -> None:
    """Raises ``EvalError`` when pass@k is asked for with fewer than k responses per problem."""
    if ks and max(ks) > samples:
        raise EvalError(f"pass@{max(ks)} needs at least {max(ks)} responses per problem, not {samples}: --n {max(ks)}")


def warn(text: str) -> None:
    """Print one line to standard error."""
    print(f"k15: {one_line(text, 400)}", file=sys.stderr, flush=True)
