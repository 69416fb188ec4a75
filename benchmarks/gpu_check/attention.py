"""Block attention against FlashAttention and SDPA: forward, backward and decode, right first and then fast."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial

import torch

from benchmarks import moba
from benchmarks.gpu_check.case import Case, Notes, Options, Row, run_cases
from kernels.moba import (
    MobaConfig,
    moba_attention_reference,
    moba_paged_attention,
    new_page_sums,
    write_pages,
)

NEEDS = ("torch", "triton", "numpy")
LENGTHS, DRY_LENGTHS = (16_384, 65_536, 262_144, 524_288), (256, 512)
CHECKED_ROWS = 32
"""Queries that are compared with the reference, which writes their scores over the whole past."""
APART = 0.05
"""Error of a query's output, relative to its norm, that means that it chose other blocks than the reference."""
MAX_APART = 0.02
"""Share of queries that may choose otherwise: their gate scores tie up to rounding."""
MAX_ERROR = {"bfloat16": 0.02, "float32": 1e-4}
"""Relative error of the outputs and gradients of the others; bfloat16 rounds weights and results to 0.004."""


def settings(options: Options) -> argparse.Namespace:
    """The shape measured: eight heads of 128, 4,096 keys a query in blocks of 512; tiny in the dry mode."""
    shape = {"heads": 8, "kv_heads": 8, "dim": 128, "block_size": 512, "top_k": 8, "page_size": 64}
    if options.dry:
        shape = {"heads": 2, "kv_heads": 1, "dim": 16, "block_size": 32, "top_k": 3, "page_size": 16}
    dtype = "float32" if options.dry else "bfloat16"
    seconds = 0.0 if options.dry else 2.0
    more = {"device": options.device, "dtype": dtype, "seconds": seconds, "threads": 1, "clock": "wall"}
    return argparse.Namespace(**shape, **more)


def measured(line: moba.Line) -> Row:
    """Figures of a line; TFLOP/s of all causal pairs, so that block attention's says what full attention would need."""
    pairs = line.length * (line.length + 1) / 2
    flops = 4 * line.dim * line.heads * pairs * (3.5 if line.pass_ == "forward+backward" else 1)
    if line.pass_.startswith("decode"):
        flops = 4 * line.dim * line.heads * line.length
    shape = {name: getattr(line, name) for name in ("heads", "kv_heads", "dim", "dtype", "block_size", "top_k")}
    return {
        "length": line.length,
        "pass": line.pass_,
        "baseline": line.baseline,
        "seconds": line.seconds,
        "baseline_seconds": line.baseline_seconds,
        "speedup": round(line.ratio, 2),
        "tflops_equivalent": flops / line.seconds / 1e12,
        "tflops_computed": flops * line.density / line.seconds / 1e12,
        "baseline_tflops": flops / line.baseline_seconds / 1e12,
        "peak_mib": round(line.peak_mib, 1),
        "baseline_peak_mib": round(line.baseline_peak_mib, 1),
        "density": line.density,
        **shape,
    }


def relative(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Norm of the error over the norm of the truth."""
    return (torch.linalg.vector_norm(found.float() - truth) / torch.linalg.vector_norm(truth)).item()


def truth(args: argparse.Namespace, rows: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The reference's output of queries that are the last positions of k and v, in float32 from the same inputs."""
    config, cu = MobaConfig(args.block_size, args.top_k), torch.tensor([0, len(rows)])
    return moba_attention_reference(rows.float(), k.float(), v.float(), cu, config, torch.tensor([0, len(k)]))


def agreeing(found: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, float]:
    """[rows, H] queries that attended to the reference's blocks, and the largest relative error among them."""
    errors = torch.linalg.vector_norm(found.float() - truth, dim=-1) / torch.linalg.vector_norm(truth, dim=-1)
    same = errors <= APART  # NaN is not
    return same, errors[same].max().item() if same.any() else float("nan")


def verdict(args: argparse.Namespace, apart: float, errors: dict[str, float]) -> Row:
    bound = MAX_ERROR[args.dtype]
    right = apart <= MAX_APART and all(error <= bound for error in errors.values())
    return {"routed_apart": apart, "errors": errors, "bound": bound, "ok": right}


def compare_forward(args: argparse.Namespace, length: int) -> Row:
    """Outputs of queries in the middle and at the end of one sequence against the reference."""
    q, k, v = (part.detach() for part in moba.inputs(args, length))
    out = moba.moba(args, q, k, v)
    found, expected = [], []
    for end in (length * 2 // 3, length):
        rows = slice(max(0, end - CHECKED_ROWS), end)
        found.append(out[rows])
        expected.append(truth(args, q[rows], k[:end], v[:end]))
    same, error = agreeing(torch.cat(found), torch.cat(expected))
    return verdict(args, 1 - same.float().mean().item(), {"out": error})


def compare_backward(args: argparse.Namespace, length: int) -> Row:
    """Gradients through the last queries of one sequence, as far as both chose the same blocks."""
    tensors = moba.inputs(args, length)
    rows = slice(length - min(length, CHECKED_ROWS), length)
    out = moba.moba(args, *tensors)
    exact = [part.detach().float().requires_grad_() for part in (tensors[0][rows], *tensors[1:])]
    expected = truth(args, *exact)
    same, error = agreeing(out[rows].detach(), expected.detach())
    above = torch.randn_like(expected) * same[..., None]
    whole = torch.zeros_like(out)
    whole[rows] = above.to(out.dtype)
    grads = torch.autograd.grad(out, tensors, whole)
    truths = torch.autograd.grad(expected, exact, whole[rows].float())
    errors = {"out": error, "q": relative(grads[0][rows], truths[0])}
    errors |= {name: relative(a, b) for name, a, b in zip("kv", grads[1:], truths[1:], strict=True)}
    return verdict(args, 1 - same.float().mean().item(), errors)


def compare_decode(args: argparse.Namespace, length: int) -> Row:
    """The last query of one sequence over a paged cache, which was written token by token position."""
    size, count = args.page_size, -(-length // args.page_size)
    q, k, v = (part.detach() for part in moba.inputs(args, length))
    cache = torch.zeros((count, args.kv_heads, 2 * size, args.dim), device=args.device, dtype=q.dtype)
    keys, values = cache.chunk(2, dim=2)
    sums, table = new_page_sums(keys), torch.randperm(count, device=args.device).int()[None]
    position = torch.arange(length, device=args.device)
    write_pages(k, v, keys, values, sums, table[0, position // size].long() * size + position % size)
    lengths, cu = torch.tensor([length]), torch.tensor([0, 1])
    config = MobaConfig(args.block_size, args.top_k)
    out = moba_paged_attention(q[-1:], keys, values, sums, table, lengths, cu, config)
    same, error = agreeing(out, truth(args, q[-1:], k, v))
    return verdict(args, 1 - same.float().mean().item(), {"out": error})


COMPARISONS = {"forward": compare_forward, "backward": compare_backward, "decode": compare_decode}


def comparisons(args: argparse.Namespace, length: int) -> Iterator[Case]:
    """Ours against the reference."""
    for name, compare in COMPARISONS.items():
        yield Case(f"{length} {name} right", partial(compare, args, length))


def attention_row(args: argparse.Namespace, length: int, pass_: str, baseline: str) -> Row:
    return measured(moba.attention_line(args, length, pass_, baseline))


def decode_row(args: argparse.Namespace, length: int, graph: bool) -> Row:
    return measured(moba.decode_line(args, length, graph))


def cases(options: Options) -> Iterator[Case]:
    """What matters most first: FlashAttention at all lengths, then decode, then the other baselines."""
    args, lengths = settings(options), DRY_LENGTHS if options.dry else LENGTHS
    first, *others = moba.baselines(options.device)
    for length in lengths:
        yield from comparisons(args, length)
    for name in (first, *others):
        for length in lengths:
            for pass_ in ("forward", "forward+backward"):
                yield Case(f"{length} {pass_} {name}", partial(attention_row, args, length, pass_, name))
        if name == first:
            for graph in (False, True) if options.device == "cuda" else (False,):
                for length in lengths:
                    how = "decode as a graph" if graph else "decode"
                    yield Case(f"{length} {how}", partial(decode_row, args, length, graph))


def work(options: Options, notes: Notes) -> None:
    """Compare and measure. Raises ``DeviceLost``."""
    torch.manual_seed(0)
    run_cases(cases(options), options, notes)
