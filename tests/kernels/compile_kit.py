"""Compile the Triton kernels of MoBA as their own callers launch them, on a machine without a GPU.

The callers run on CPU tensors; each launch is noted instead of made. So tiles, types and what the compiler may assume
are those of a GPU: that sizes and strides are multiples of 16 is what lets it pipeline loads through shared memory.

    TRITON_INTERPRET=0 python compile_kit.py HEAD_DIM DTYPE CAPABILITY all|first

prints number of the launch, name of the kernel, shared memory, that of the device, and size of the program: a line for
every choice of tiles that the autotuner has, or up to the first that fits.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile  # noqa: A004
from triton.runtime.autotuner import Autotuner

from kernels.moba import MobaConfig, Span, gpu, new_page_sums, triton_decode

SHARED_MEMORY = {80: 163 << 10, 90: 227 << 10}
"""Bytes that a program may have on an A100, on an H100."""
TYPES = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int32: "*i32", torch.int64: "*i64"}
TOKENS, HEADS, KEY_HEADS, PAGE = 4096, 16, 8, 32
CONFIG = MobaConfig(512, 3)
ALIGNED = {
    "dim",
    "block_size",
    "page_size",
    *(f"stride_{of}" for of in ["qt", "qh", "kt", "kh", "vt", "vh", "kp", "kg", "ks", "vp", "vg", "vs", "table"]),
}
"""Numbers that are multiples of 16 in any call of a size worth a GPU."""

Launch = tuple[Autotuner, dict[str, Any], dict[str, str]]
"""Kernel, compile-time constants by name, types of the other arguments by name."""


def launches(dim: int, dtype: torch.dtype) -> list[Launch]:
    """Every launch of a forward pass, of both kinds of backward pass and of a decoding step."""
    found: dict[tuple[Any, ...], Launch] = {}

    def note(kernel: Autotuner, *args: Any, grid: Any, warmup: bool, **constants: Any) -> None:
        named = dict(zip(kernel.arg_names, args, strict=False))
        types = {name: typed(value) for name, value in named.items()}
        key = (kernel.base_fn.__name__, *types.items(), *sorted(constants.items()))
        found[key] = (kernel, constants, types)

    run, Autotuner.run = Autotuner.run, note
    try:
        q, k, v = (torch.empty(TOKENS, heads, dim, dtype=dtype) for heads in (HEADS, KEY_HEADS, KEY_HEADS))
        sequences = [Span(0, TOKENS, 0, TOKENS)]
        out, saved = gpu.forward(q, k, v, sequences, CONFIG, 0.1)
        for deterministic in (False, True):
            gpu.backward(out, q, k, v, saved, sequences, CONFIG, 0.1, deterministic)
        pages = torch.empty(TOKENS // PAGE, KEY_HEADS, PAGE, 2 * dim, dtype=dtype).chunk(2, dim=-1)
        rows, sums = torch.arange(16), new_page_sums(pages[0])
        triton_decode.write_pages(k[:16], v[:16], *pages, sums, rows)
        triton_decode.attend_rows(q[:16], *pages, sums, torch.zeros(16, 128, dtype=torch.int32), rows, CONFIG, 0.1)
    finally:
        Autotuner.run = run
    return [*found.values()]


def typed(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return TYPES[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


def compiled(launch: Launch, capability: int) -> Iterator[tuple[str, int, int]]:
    """Yield name, shared memory and size of the program for each choice of tiles."""
    kernel, constants, types = launch
    names = kernel.fn.arg_names
    for choice in kernel.configs:
        fixed = constants | choice.kwargs
        signature = {name: "constexpr" if name in fixed else types[name] for name in names}
        aligned = [name for name in names if signature[name].startswith("*") or (name in ALIGNED and name not in fixed)]
        source = ASTSource(
            kernel.fn,
            signature,
            {(names.index(name),): value for name, value in fixed.items()},
            {(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
        )
        options = {"num_warps": choice.num_warps, "num_stages": choice.num_stages}
        done = compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        yield kernel.base_fn.__name__, done.metadata.shared, len(done.asm["cubin"])


def main(dim: str, dtype: str, capability: str, which: str) -> None:
    limit = SHARED_MEMORY[int(capability)]
    for number, launch in enumerate(launches(int(dim), getattr(torch, dtype))):
        for name, shared, size in compiled(launch, int(capability)):
            print(number, name, shared, limit, size, flush=True)
            if which == "first" and shared <= limit:
                break


if __name__ == "__main__":
    main(*sys.argv[1:])
