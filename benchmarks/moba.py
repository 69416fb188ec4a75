"""MoBA against full attention, side by side: ``python -m benchmarks.moba --device cpu --lengths 8192,32768``.

One JSON line per length and pass; ``ratio`` is the baseline's median time over ours. Baseline of forward and
forward+backward: causal scaled_dot_product_attention (on CUDA: its flash and cuDNN backends, and flash-attn where it is
installed, one line each). Baselines
of decode, one query over the whole cache: the same attention with the cache in order, nothing to be gathered; and on a
CPU with vLLM its dense paged kernel, against k15's vLLM backend on the same cache. Times in seconds, memory in MiB
above the inputs. On a machine that others use too, ``--threads 1 --clock cpu`` counts the processor time of one thread
instead of waiting.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.timing import Measured, Work, side_by_side
from kernels.moba import MobaConfig, Span, coverage, moba_attention, moba_paged_attention, new_page_sums, write_pages

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Line:
    """One measurement, as printed."""

    device: str
    dtype: str
    heads: int
    kv_heads: int
    dim: int
    block_size: int
    top_k: int
    length: int
    pass_: str
    baseline: str
    seconds: float
    baseline_seconds: float
    ratio: float
    peak_mib: float
    baseline_peak_mib: float
    threads: int
    clock: str
    density: float
    """Query-key pairs attended over those of causal attention; for decode, bytes read over the dense cache's."""

    def json(self) -> str:
        fields = {name.rstrip("_"): value for name, value in asdict(self).items()}
        return json.dumps({k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in fields.items()})


def run(attention: Attention, tensors: Sequence[torch.Tensor], grad: torch.Tensor | None) -> object:
    """Forward alone without ``grad``; else forward and the gradients of all ``tensors``."""
    if grad is None:
        with torch.no_grad():
            return attention(*tensors)
    return torch.autograd.grad(attention(*tensors), tensors, grad)


def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, backend: SDPBackend | None = None) -> torch.Tensor:
    turned = [part.transpose(0, 1)[None] for part in (q, k, v)]
    grouped = q.shape[1] != k.shape[1]
    with nullcontext() if backend is None else sdpa_kernel([backend]):
        return F.scaled_dot_product_attention(*turned, is_causal=True, enable_gqa=grouped)[0].transpose(0, 1)


def flash_attn(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    from flash_attn import flash_attn_func

    return flash_attn_func(q[None], k[None], v[None], causal=True)[0]


def baselines(device: str) -> dict[str, Attention]:
    """Causal full attention by name; on CUDA FlashAttention as torch has it and, if installed, its authors' own."""
    if not device.startswith("cuda"):
        return {"sdpa": sdpa}
    found: dict[str, Attention] = {
        "sdpa-flash": partial(sdpa, backend=SDPBackend.FLASH_ATTENTION),
        "sdpa-cudnn": partial(sdpa, backend=SDPBackend.CUDNN_ATTENTION),
    }
    return found | ({"flash-attn": flash_attn} if find_spec("flash_attn") else {})


def moba(args: argparse.Namespace, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Block attention over one sequence."""
    return moba_attention(q, k, v, torch.tensor([0, q.shape[0]]), args.block_size, args.top_k)


def inputs(args: argparse.Namespace, length: int) -> list[torch.Tensor]:
    """Queries, keys and values of one sequence."""
    shapes = [(length, heads, args.dim) for heads in (args.heads, args.kv_heads, args.kv_heads)]
    dtype = getattr(torch, args.dtype)
    return [torch.randn(shape, device=args.device, dtype=dtype).requires_grad_() for shape in shapes]


def attention_line(args: argparse.Namespace, length: int, pass_: str, name: str) -> Line:
    """``pass_`` (forward, or forward+backward) of block attention and of the baseline ``name``."""
    tensors = inputs(args, length)
    grad = torch.randn_like(tensors[0]) if pass_ != "forward" else None
    both = (partial(moba, args), baselines(args.device)[name])
    works = [partial(run, attention, tensors, grad) for attention in both]
    density = coverage(MobaConfig(args.block_size, args.top_k), [Span(0, length, 0, length)]).density
    return line(args, length, pass_, name, compare(args, *works), density)


def compare(args: argparse.Namespace, ours: Work, theirs: Work) -> list[Measured]:
    return side_by_side((ours, theirs), args.device, args.seconds, args.clock)


def attention_lines(args: argparse.Namespace, length: int) -> Iterator[Line]:
    for name in baselines(args.device):
        for pass_ in args.passes:
            if pass_ != "decode":
                yield attention_line(args, length, pass_, name)


def captured(work: Work) -> Work:
    """Return ``work`` as a CUDA graph: what is left is the device's time, without Python's between the kernels."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def decode_line(args: argparse.Namespace, length: int, graph: bool = False) -> Line:
    """One new token of one sequence over a cache of ``length`` tokens, pages in random order; on CUDA as engines call
    it, so that the host reads no lengths. ``graph``: both sides as CUDA graphs.
    """
    config, dtype, size = MobaConfig(args.block_size, args.top_k), getattr(torch, args.dtype), args.page_size
    count = -(-length // size)
    cache = torch.randn((count, args.kv_heads, 2 * size, args.dim), device=args.device).to(dtype)
    keys, values = cache.chunk(2, dim=2)
    sums = new_page_sums(keys)
    sums.copy_(keys.sum(dim=2, dtype=sums.dtype))
    table = torch.randperm(count, device=args.device).int()[None]
    cuda = args.device.startswith("cuda")
    lengths, cu = (torch.tensor(part, device=args.device) for part in ([length], [0, 1]))
    most = 1 if cuda else None
    q = torch.randn((1, args.heads, args.dim), device=args.device).to(dtype)
    new = torch.randn((1, args.kv_heads, args.dim), device=args.device).to(dtype)
    slot = table[0, (length - 1) // size].long()[None] * size + (length - 1) % size

    def sparse() -> object:
        write_pages(new, new, keys, values, sums, slot)
        return moba_paged_attention(q, keys, values, sums, table, lengths, cu, config, max_query_len=most)

    # Dense decode at its best: the same tokens lie in order already, nothing is gathered.
    flat_k, flat_v = (torch.randn((1, args.kv_heads, length, args.dim), device=args.device).to(dtype) for _ in "kv")
    grouped = args.heads != args.kv_heads

    def dense() -> object:
        return F.scaled_dot_product_attention(q.transpose(0, 1)[None], flat_k, flat_v, enable_gqa=grouped)

    works = [captured(work) if graph else work for work in (sparse, dense)]
    figures = compare(args, *works)
    return line(
        args,
        length,
        "decode-graph" if graph else "decode",
        "sdpa-contiguous",
        figures,
        decode_density(args, config, length),
    )


def vllm_decode_line(args: argparse.Namespace, length: int) -> Line:
    """The same in vLLM's CPU cache, by k15's backend and by vLLM's: one layer of a step that is planned already."""
    from vllm import _custom_ops as ops
    from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

    from rollout.engines.moba_pages import Kernel, add_to_sums, attend, halves, plan

    dtype, size = getattr(torch, args.dtype), args.page_size
    isa, count = _get_attn_isa(dtype, size, args.dim), -(-length // size)
    cache = torch.empty((count, args.kv_heads, size, 2 * args.dim), dtype=dtype)
    pages, sums = halves(cache), torch.zeros((count, args.kv_heads, args.dim))
    table = torch.randperm(count).int()[None]
    slots = (table[0, :, None].long() * size + torch.arange(size)).flatten()[:length]

    def write(k: torch.Tensor, v: torch.Tensor, slots: torch.Tensor) -> None:
        ops.cpu_attn_reshape_and_cache(k, v, *pages, slots, isa)

    k, v = (torch.randn((length, args.kv_heads, args.dim)).to(dtype) for _ in "kv")
    write(k, v, slots)
    add_to_sums(sums, k, slots, size)
    q, out = (torch.randn((1, args.heads, args.dim)).to(dtype) for _ in "qo")

    def step(config: MobaConfig) -> Work:
        work = plan(Kernel(args.heads, args.kv_heads, args.dim, dtype, isa), config, [0, 1], [length], table)

        def once() -> object:
            write(k[-1:], v[-1:], slots[-1:])
            if work.routed:
                add_to_sums(sums, k[-1:], slots[-1:], size)
            attend(work, config, args.dim**-0.5, isa, (q, k[-1:], v[-1:]), cache, sums, table, out)
            return out

        return once

    config = MobaConfig(args.block_size, args.top_k)
    everything = MobaConfig(args.block_size, args.top_k, full_below=-(-length // args.block_size) * args.block_size)
    figures = compare(args, step(config), step(everything))
    return line(args, length, "decode", "vllm-paged", figures, decode_density(args, config, length))


def decode_density(args: argparse.Namespace, config: MobaConfig, length: int) -> float:
    """Bytes that one query reads over those of all keys and values.

    It reads keys and values of the chosen blocks for each query head (heads that share keys may choose the same ones;
    that is not counted on) and the page sums, in float32.
    """
    size = getattr(torch, args.dtype).itemsize
    chosen = 2 * args.heads * config.attended(length - 1) * size
    sums = args.kv_heads * (length // args.page_size) * 4
    return float((chosen + sums) / (2 * args.kv_heads * length * size))


def line(args: argparse.Namespace, length: int, pass_: str, name: str, figures: list[Measured], density: float) -> Line:
    ours, theirs = figures
    what = (args.device, args.dtype, args.heads, args.kv_heads, args.dim, args.block_size, args.top_k)
    times = (ours.median, theirs.median, theirs.median / ours.median)
    peaks = (ours.peak_mib, theirs.peak_mib)
    return Line(*what, length, pass_, name, *times, *peaks, args.threads, args.clock, density)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--lengths", default="8192,32768", type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--passes", default="forward,forward+backward,decode", type=lambda text: text.split(","))
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--heads", default=8, type=int)
    parser.add_argument("--kv-heads", default=8, type=int)
    parser.add_argument("--dim", default=64, type=int)
    parser.add_argument("--block-size", default=512, type=int)
    parser.add_argument("--top-k", default=3, type=int)
    parser.add_argument("--page-size", default=64, type=int)
    parser.add_argument("--seconds", default=10.0, type=float, help="stop repeating one measurement after this long")
    parser.add_argument("--threads", default=torch.get_num_threads(), type=int)
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for length in args.lengths:
        for measured in attention_lines(args, length):
            print(measured.json(), flush=True)
        if "decode" in args.passes:
            for graph in (False, True) if args.device.startswith("cuda") else (False,):
                print(decode_line(args, length, graph).json(), flush=True)
            if args.device == "cpu" and find_spec("vllm"):
                print(vllm_decode_line(args, length).json(), flush=True)


if __name__ == "__main__":
    main()
