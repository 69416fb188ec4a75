"""What share of a training step on CPUs is the optimiser's, by how many tokens the step has.

    python -m benchmarks.muon_share --threads 2

One JSON line for each number of tokens: seconds of the whole step and of the optimiser in it, with Muon and in the
control arm, by the clock of the process's CPUs (``--clock wall``: by the wall). A Llama of four layers from scratch
learns bytes at random: what is in them does not matter here.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import emit, environment, median
from rl.learner.batch import Batch, pack_demonstrations
from rl.learner.config import LearnerConfig, ModelConfig, ScratchModel
from rl.learner.learner import Learner
from rl.learner.policy import create_model
from rl.learner.spec import LearnerSpec
from rl.objectives.cross_entropy import CrossEntropy
from rollout.models.tokenizer import byte_tokenizer

CLOCKS: dict[str, Callable[[], float]] = {"cpu": time.process_time, "wall": time.perf_counter}


class Timed:
    """The seconds that a callable takes, call by call, and what it returns."""

    def __init__(self, work: Callable[..., Any], clock: str) -> None:
        self.seconds: list[float] = []
        self._work, self._clock = work, CLOCKS[clock]

    def __call__(self, *args: Any) -> Any:
        began = self._clock()
        result = self._work(*args)
        self.seconds.append(self._clock() - began)
        return result


def build(folder: Path, base: ScratchModel, threads: int, kind: str, dtype: str) -> Learner:
    """A learner of that optimiser on the model in ``folder``, which is made on the first call."""
    if not folder.exists():
        create_model(base, byte_tokenizer(base.context), seed=0).save_pretrained(folder)
    optimizer = {"kind": kind, "ns_dtype": dtype, "lr": 1e-3}
    learner = LearnerConfig.model_validate({"optimizer": optimizer, "micro_batch_tokens": 4096})
    return Learner(LearnerSpec(ModelConfig(base=base, threads=threads), learner), folder)


def rows_of(tokens: int, length: int, seed: int) -> Batch:
    """``tokens`` in sequences of ``length``."""
    drawn = torch.randint(5, 261, (tokens // length, length), generator=torch.Generator().manual_seed(seed)).tolist()
    return pack_demonstrations([(row[:1], row[1:]) for row in drawn])


def measure(learner: Learner, tokens: int, length: int, rounds: int, clock: str) -> tuple[float, float]:
    """Median seconds of a step, and of its optimiser."""
    step = Timed(learner.step, clock)
    optimizer = Timed(learner.optimizer.step, clock)
    learner.optimizer.step = optimizer  # type: ignore[method-assign]
    for number in range(rounds + 1):
        step(rows_of(tokens, length, number), CrossEntropy(), 1e-4)
    del learner.optimizer.step
    return median(step.seconds[1:]), median(optimizer.seconds[1:])  # the first makes moments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 8192, 16384, 32768])
    parser.add_argument("--length", type=int, default=1024, help="tokens of a sequence")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--mlp-width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ns-dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="cpu")
    options = parser.parse_args()
    base = ScratchModel(
        layers=options.layers, width=options.width, heads=options.heads, kv_heads=options.heads,
        mlp_width=options.mlp_width, context=options.length,
    )  # fmt: skip
    emit({"environment": environment(), "model": base.model_dump(), "threads": options.threads})
    with tempfile.TemporaryDirectory() as folder:
        made = {
            kind: build(Path(folder) / "model", base, options.threads, kind, options.ns_dtype)
            for kind in ("muon", "adamw")
        }
        for tokens in options.tokens:
            row: dict[str, Any] = {"tokens": tokens, "clock": options.clock}
            for kind, learner in made.items():
                whole, part = measure(learner, tokens, options.length, options.rounds, options.clock)
                row |= {f"{kind}_step_s": whole, f"{kind}_s": part, f"{kind}_share": part / whole}
            emit(row)


if __name__ == "__main__":
    main()
