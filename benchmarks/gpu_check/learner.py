"""The learner's speed at 16K and 65K tokens: steps of mirror descent with Muon on a model of Qwen3-0.6B's shape; and
how fast it leaves the GPU and comes back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.gpu_check import model
from benchmarks.gpu_check.case import Case, Notes, Options, Row, run_cases
from benchmarks.gpu_check.environment import peak_flops
from benchmarks.gpu_check.turns import turns
from benchmarks.timing import side_by_side

NEEDS = ("torch", "triton", "numpy", "transformers", "safetensors", "pydantic", "pyarrow")
LENGTHS, DRY_LENGTHS = (16_384, 65_536), (32, 64)
TOKENS, DRY_TOKENS = 65_536, 64
"""Tokens of a step."""
FORMULA = (
    "6 N + 6 L H D T operations a token: N parameters in matrices, the tied embedding once, as the head; L layers of H "
    "heads of D channels in causal attention over T tokens; what is computed again in the backward pass does not count"
)
SECONDS = 12.0
"""Time for the rounds of one length."""


def speed(options: Options, length: int) -> Row:
    """Tokens a second, model operations a second, MFU, and memory of whole optimiser steps."""
    from rl.learner import balance

    cuda, count = options.device == "cuda", (DRY_TOKENS if options.dry else TOKENS) // length
    learner = model.learner(options, length)
    learner.begin_iteration()
    batch = model.rollouts(options, length, count)
    steps = []
    if cuda:
        torch.cuda.reset_peak_memory_stats()

    def step() -> None:
        steps.append(learner.first_step(batch)[0])

    limit = 0.0 if options.dry else SECONDS
    whole, reference, optimizer = (
        side_by_side([work], options.device, share * limit, least=2, most=5)[0]
        for work, share in ((step, 0.7), (partial(learner.logprobs, batch), 0.2), (learner.optimizer.step, 0.1))
    )
    rate = count * length / whole.median
    cost = balance.cost_of(learner.model)
    flops = cost.linear + cost.quadratic * length
    peak = peak_flops(torch.cuda.get_device_name()) if cuda else None
    return {
        "length": length,
        "sequences": count,
        "tokens": count * length,
        "seconds": whole.median,
        "rounds": len(whole.seconds),
        "reference_seconds": reference.median,
        "optimizer_seconds": optimizer.median,
        "tokens_per_s": rate,
        "flops_per_token": flops,
        "tflops": rate * flops / 1e12,
        "mfu": None if peak is None else rate * flops / peak,
        "peak_tflops": None if peak is None else peak / 1e12,
        "formula": FORMULA,
        "parameters": sum(parameter.numel() for parameter in learner.parameters),
        "memory_mib": round(torch.cuda.max_memory_allocated() / 2**20) if cuda else None,
        "loss": steps[-1].loss,
        "grad_norm": steps[-1].grad_norm,
        "ok": all(math.isfinite(each.loss) and not each.skipped for each in steps),
    }


def cases(options: Options) -> Iterator[Case]:
    for length in DRY_LENGTHS if options.dry else LENGTHS:
        yield Case(f"{length} tokens", partial(speed, options, length))
    yield Case("turns", partial(turns, options))


def work(options: Options, notes: Notes) -> None:
    """Measure. Raises ``DeviceLost``."""
    run_cases(cases(options), options, notes)
