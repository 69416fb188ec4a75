"""``k15 eval --fuse``: one answer to a problem from all of its responses. Its options; loads nothing heavy."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from recipes.commands.usage import UsageError, not_negative

if TYPE_CHECKING:
    from evals.benchmark import Benchmark
    from evals.offline import Task
    from evals.pooled import Generator
    from recipes.commands.eval_options import Options
    from rl.config import RunConfig
    from rollout.evidence.config import MergingConfig
    from rollout.models.prompts import Transcript
    from rollout.types import Problem, Prompt

POOLINGS = ("entropy", "mean", "exact")
DEFAULT = {"nbce": "mean"}
"""On the command line. The paper's own pooling takes the surest chain, and chains are as sure of wrong answers
(docs/long_evidence.md): it loses to the vote."""


def add_fuse_options(one: argparse._ActionsContainer) -> None:
    """Add the options of answer fusion."""
    one.add_argument(
        "--fuse",
        type=_poolings,
        default=(),
        metavar="nbce|POOLING,...",
        help="draw the final answer once from all chains of thought, beside maj@k: nbce (mean), entropy, mean, exact",
    )
    one.add_argument(
        "--fuse-beta", type=not_negative, metavar="B", help="contrast with the model that sees no reasoning (0.25)"
    )


def fuse_of(arguments: argparse.Namespace) -> tuple[MergingConfig, ...]:
    """Return the ways to fuse that a command line asks for. Raises ``UsageError``."""
    from rollout.evidence.config import MergingConfig

    if arguments.fuse_beta is not None and (not arguments.fuse or "exact" in arguments.fuse):
        what = "not of exact, whose beta is the number of responses less one" if arguments.fuse else "of --fuse"
        raise UsageError(f"--fuse-beta is {what}: leave it out")
    return tuple(MergingConfig(pooling=pooling, beta=arguments.fuse_beta) for pooling in arguments.fuse)


def check_fuse(options: Options, benchmarks: Sequence[Benchmark], run: RunConfig | None) -> None:
    """Raises ``EvalError`` where there is nothing to fuse. ``run``: whose held-out problems are asked."""
    from recipes.commands.eval_options import EvalError

    if not options.fuse:
        return
    if options.windows is not None or (run is not None and run.rollout.evidence is not None):
        raise EvalError("--fuse puts each response into a window: it does not go with evidence in windows (--nbce)")
    for benchmark in benchmarks:
        if benchmark.samples < 2:
            raise EvalError(f"--fuse: {benchmark.name} has one response per problem; at least 2 are needed: --n 8")
        if benchmark.verifier == "code":
            raise EvalError(f"--fuse: the answers of {benchmark.name} are programs, and only short answers are fused")
    if run is not None and run.environment is not None:
        raise EvalError("--fuse: responses of several turns with an environment are not fused")


def with_fusing(
    task: Task,
    fuse: Sequence[MergingConfig],
    pool: Generator,
    render: Callable[[Problem], Prompt],
    transcript: Transcript,
    context: int,
) -> Task:
    """Return the task with its ways to fuse."""
    from evals.fusion import Fusing

    return replace(task, fusing=tuple(Fusing(pool, render, transcript, context, merging) for merging in fuse))


def _poolings(text: str) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",")]
    found = tuple(dict.fromkeys(DEFAULT.get(name, name) for name in names))
    if wrong := [name for name in found if name not in POOLINGS]:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} is none of {', '.join(DEFAULT)}, {', '.join(POOLINGS)}")
    return found
