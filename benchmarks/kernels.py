"""The learner's small kernels against what they replace: ``python -m benchmarks.kernels``.

One JSON line per kernel and pass; ``ratio`` is the baseline's median time over ours, both timed in turn. Log-probs:
against full logits and log_softmax, with the peak memory of each in a process of its own; without them where they do
not fit into memory. Rotation: against transformers' function. Newton-Schulz: float32 and bfloat16 against
torch.optim.Muon's, which is one matrix after the other in bfloat16: native on some CPUs, emulated and slow on others.
On a machine that others use too, ``--threads 1 --clock cpu`` counts one thread's processor time instead of waiting.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.common import emit, environment, median, ratio, total_memory
from benchmarks.timing import Work
from kernels.logprob import token_logprobs
from kernels.newton_schulz import orthogonalize
from kernels.rope import Rotary, frequencies, rotate, tables

KERNELS = ("logprob", "rope", "newton_schulz")


@dataclass(frozen=True)
class Case:
    """A kernel and its baseline on the same input."""

    name: str
    pass_: str
    size: str
    ours: Work
    baseline: Work | None
    """``None``: this machine has not the memory for it."""
    peak: bool = False
    """Measure peak memory too; costs a process for each."""


def timed(case: Case, repeats: int, clock: Callable[[], float]) -> list[float]:
    """Median seconds of ours and of the baseline, if there is one, in turn, after one warm-up of each."""
    works = [work for work in (case.ours, case.baseline) if work is not None]
    seconds: list[list[float]] = [[] for _ in works]
    for repeat in range(repeats + 1):
        for work, into in zip(works, seconds, strict=True):
            began = clock()
            work()
            if repeat:
                into.append(clock() - began)
    return [median(each) for each in seconds]


def peak_mib(work: Work) -> float:
    """Memory that ``work`` takes at most beyond what was there before, in MiB; forked, so that it starts from here."""
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)

    def child() -> None:
        torch.set_num_threads(1)  # OpenMP does not survive a fork with its threads
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        work()
        writer.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)

    process = context.Process(target=child)
    process.start()
    peak: float = reader.recv()
    process.join()
    return round(peak, 1)


def chunked_logprobs(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, backward: bool
) -> list[torch.Tensor]:
    """Log-probs [T] by our kernel; ``backward``: and the gradients of their sum by ``hidden`` and ``weight``."""
    h, w = (part.detach().requires_grad_(backward) for part in (hidden, weight))
    logp, _ = token_logprobs(h, w, targets)
    return [logp, *torch.autograd.grad(logp.sum(), (h, w))] if backward else [logp]


def full_logprobs(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, backward: bool
) -> list[torch.Tensor]:
    """The same through all logits at once, in float32 from the product on."""
    h, w = (part.detach().requires_grad_(backward) for part in (hidden, weight))
    logp = (h @ w.mT).float().log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    return [logp, *torch.autograd.grad(logp.sum(), (h, w))] if backward else [logp]


def torch_muon(matrices: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Orthogonalised as torch.optim.Muon does it: one after the other, in bfloat16."""
    from torch.optim._muon import _zeropower_via_newtonschulz as torchs

    return [torchs(matrix, (3.4445, -4.7750, 2.0315), 5, 1e-7) for matrix in matrices]


def logprob_cases(tokens: int, vocabulary: int, width: int) -> Iterator[Case]:
    hidden, weight = torch.randn(tokens, width) * 0.1, torch.randn(vocabulary, width) * 0.1
    targets = torch.randint(0, vocabulary, (tokens,))
    size = f"{tokens} tokens x {vocabulary}, width {width}"
    for backward in (False, True):
        name = "forward+backward" if backward else "forward"
        # Logits and log-probs; backward, their gradient too.
        fits = tokens * vocabulary * 4 * (3 if backward else 2) < 0.8 * total_memory()
        ours, full = (partial(way, hidden, weight, targets, backward) for way in (chunked_logprobs, full_logprobs))
        yield Case("logprob", name, size, ours, full if fits else None, peak=True)


def rotary_cases() -> Iterator[Case]:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    for tokens, heads, dim in ((8192, 8, 64), (16384, 9, 64), (4096, 32, 128)):
        x = torch.randn(tokens, heads, dim)
        cos, sin = tables(*frequencies(Rotary(dim)), torch.arange(tokens))
        wide = [torch.cat([part, part], dim=-1)[None] for part in (cos, sin)]

        def ours(backward: bool, x=x, cos=cos, sin=sin) -> None:
            q = x.detach().requires_grad_(backward)
            out = [rotate(q, cos, sin), rotate(q, cos, sin)]
            if backward:
                torch.autograd.backward([part.sum() for part in out])

        def theirs(backward: bool, x=x, wide=wide) -> None:
            q = x.detach().requires_grad_(backward)
            out = apply_rotary_pos_emb(q.transpose(0, 1)[None], q.transpose(0, 1)[None], *wide)
            if backward:
                torch.autograd.backward([part.sum() for part in out])

        size = f"q and k, {tokens} tokens x {heads} heads x {dim}"
        for backward in (False, True):
            name = "forward+backward" if backward else "forward"
            yield Case("rope", name, size, lambda b=backward, f=ours: f(b), lambda b=backward, f=theirs: f(b))


def newton_schulz_cases() -> Iterator[Case]:
    for layers, width, inner in ((3, 128, 384), (8, 576, 1536)):
        shapes = [(width, width)] * 4 + [(inner, width)] * 2 + [(width, inner)]
        matrices = [torch.randn(shape) for _ in range(layers) for shape in shapes]
        size = f"{len(matrices)} matrices of {layers} layers, width {width}"
        theirs = partial(torch_muon, matrices)
        for dtype in (torch.float32, torch.bfloat16):
            name = f"{size}, {str(dtype).removeprefix('torch.')}"
            yield Case("newton_schulz", "forward", name, partial(orthogonalize, matrices, dtype=dtype), theirs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=KERNELS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.clock == "cpu" else time.perf_counter
    emit({"environment": environment(), "threads": arguments.threads, "clock": arguments.clock})
    makers = {
        "logprob": lambda: logprob_cases(arguments.tokens, arguments.vocabulary, arguments.width),
        "rope": rotary_cases,
        "newton_schulz": newton_schulz_cases,
    }
    for case in (case for name in arguments.kernels for case in makers[name]()):
        row: dict[str, object] = {"kernel": case.name, "pass": case.pass_, "size": case.size}
        if case.peak:  # before the warm-up: freed memory that stays in the process would hide it
            row["peak_mib"] = peak_mib(case.ours)
            row["baseline_peak_mib"] = peak_mib(case.baseline) if case.baseline else None
        ours, *baseline = timed(case, arguments.repeats, clock)
        row["seconds"] = round(ours, 4)
        if baseline:
            row |= {"baseline_seconds": round(baseline[0], 4), "ratio": ratio(baseline[0], ours)}
        emit(row)


if __name__ == "__main__":
    main()
