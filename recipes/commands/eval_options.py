"""The options of ``k15 eval``, and the check that they fit together."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ValidationError

from evals.benchmark import Benchmark
from evals.benchmarks import get
from evals.data import Choice
from evals.prompting import Thinking
from rollout.evidence.config import MergingConfig
from rollout.evidence.windows import MOST_WINDOWS
from rollout.plain import one_line
from rollout.reward_models.config import RewardModelConfig

HELDOUT = "heldout"
"""The held-out problems of a run directory, as its own evaluation puts them."""


class EvalError(ValueError):
    """The command cannot be carried out as it is; one line."""


Way = Literal["truncated", "parallel", "vote"]
"""What may stand beside NBCE: the first window alone, parallel context windows [2212.10947], a vote of windows that
answer alone."""
WAYS: tuple[Way, ...] = get_args(Way)


@dataclass(frozen=True)
class Windowing:
    """Evidence in windows: how many, how they are merged, and what stands beside that."""

    count: int
    merging: MergingConfig
    beside: tuple[Way, ...] = ()


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
    shots_seed: int = 0
    """Of which solved examples are drawn, and in which order."""
    windows: Windowing | None = None
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


def windowing(
    count: int | None, pooling: str | None, beta: float | None, eta: float | None, beside: Sequence[Way]
) -> Windowing | None:
    """Return the options for evidence in windows; ``None`` without ``--nbce``. Raises ``EvalError``."""
    given: dict[str, Any] = {"pooling": pooling, "beta": beta, "eta": eta}
    given = {name: value for name, value in given.items() if value is not None}
    if count is None:
        if given or beside:
            raise EvalError(f"--{[*given, 'beside'][0]} belongs to --nbce N, which spreads evidence over N windows")
        return None
    if count > MOST_WINDOWS:
        raise EvalError(f"--nbce {count}: at most {MOST_WINDOWS} windows are read together")
    if "eta" in given and pooling in ("mean", "exact"):
        raise EvalError(f"--eta is of --pooling entropy alone; leave it out with {pooling}")
    try:
        return Windowing(count, MergingConfig(**given), tuple(beside))
    except ValidationError as error:
        raise EvalError(f"--pooling, --beta: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error


def chosen(options: Options) -> list[Benchmark]:
    """Return the benchmarks named, with the settings asked for. Raises ``EvalError`` or ``UnknownBenchmark``."""
    if len(set(options.benchmarks)) != len(options.benchmarks):
        raise EvalError("a benchmark is named twice")
    found = [get(name) for name in options.benchmarks if name != HELDOUT]
    if options.data is not None and options.data.is_file() and len(options.benchmarks) > 1:
        raise EvalError(f"--data {options.data} is one file, for one benchmark; name its folder to evaluate several")
    if options.windows is not None:
        check_source(options)
    for benchmark in found:
        if options.shots and benchmark.shots is None:
            raise EvalError(f"{benchmark.name} has no solved examples for --shots")
    return [with_settings(benchmark, options) for benchmark in found]


def check_source(options: Options) -> None:
    """Raises ``EvalError`` where windows cannot be read together: that takes engines of ours."""
    if options.predictions is not None:
        raise EvalError("--nbce draws answers, and --predictions are given; leave one out")
    if options.model.startswith(("http://", "https://")):
        raise EvalError(
            f"--nbce merges distributions of an engine, which the server {options.model} does not give; name a model "
            "directory with --model"
        )
    if HELDOUT in options.benchmarks:
        raise EvalError(f"{HELDOUT} is asked as its run asked it, without evidence to spread; leave --nbce out")


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
