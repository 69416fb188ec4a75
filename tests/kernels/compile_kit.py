"""Compile all Triton kernels as their own callers launch them, on a machine without a GPU.

The callers run on CPU tensors; each launch is noted instead of made. So tiles, types and what the compiler may assume
are those of a GPU: that sizes and strides are multiples of 16 is what lets it pipeline loads through shared memory.

    TRITON_INTERPRET=0 python compile_kit.py HEAD_DIM DTYPE CAPABILITY all|first [KERNEL ...]

prints number of the launch, name of the kernel, shared memory, that of the device, and size of the program: a line for
every choice of tiles that the autotuner has, or up to the first that fits.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile  # noqa: A004
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction

from kernels.moba import MobaConfig, Span, gpu, new_page_sums, triton_decode
from kernels.newton_schulz.triton_kernel import symmetric_product
from kernels.rope.triton_kernel import turn_triton

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
    *("stride_t", "stride_h", "stride_xn", "stride_xr", "rows", "columns"),
}
"""Numbers that are multiples of 16 in any call of a size worth a GPU."""


@dataclass(frozen=True)
class Launch:
    """A kernel as it is called."""

    fn: JITFunction
    constants: dict[str, Any]
    """Compile-time constants by name."""
    types: dict[str, str]
    """Of the other arguments, by name."""
    choices: tuple[tuple[dict[str, Any], dict[str, int]], ...]
    """Further constants, and the compiler's options: what the autotuner tries, if there is one."""


def launches(dim: int, dtype: torch.dtype) -> list[Launch]:
    """Return every launch with heads of ``dim``."""
    found: dict[tuple[Any, ...], Launch] = {}

    def note(kernel: Autotuner | JITFunction, *args: Any, grid: Any, warmup: bool, **constants: Any) -> None:
        named = dict(zip(kernel.arg_names, args, strict=False))
        types = {name: typed(value) for name, value in named.items()}
        constants |= {name: 1 for name, value in named.items() if type(value) is int and value == 1}  # as Triton does
        choices: list[tuple[dict[str, Any], dict[str, int]]] = [({}, {})]
        if isinstance(kernel, Autotuner):
            choices = [
                (one.kwargs, {"num_warps": one.num_warps, "num_stages": one.num_stages}) for one in kernel.configs
            ]
        fn = kernel.fn if isinstance(kernel, Autotuner) else kernel
        key = (fn.__name__, *types.items(), *sorted(constants.items()))
        found[key] = Launch(fn, constants, types, tuple(choices))

    before = {kind: kind.run for kind in (Autotuner, JITFunction)}
    try:
        for kind in before:
            kind.run = note
        call_all(dim, dtype)
    finally:
        for kind, run in before.items():
            kind.run = run
    return [*found.values()]


def call_all(dim: int, dtype: torch.dtype) -> None:
    """Block attention forward, backward in both kinds, and decoding; both rotations; both products of Newton-Schulz."""
    q, k, v = (torch.empty(TOKENS, heads, dim, dtype=dtype) for heads in (HEADS, KEY_HEADS, KEY_HEADS))
    sequences = [Span(0, TOKENS, 0, TOKENS)]
    out, saved = gpu.forward(q, k, v, sequences, CONFIG, 0.1)
    for deterministic in (False, True):
        gpu.backward(out, q, k, v, saved, sequences, CONFIG, 0.1, deterministic)
    pages = torch.empty(TOKENS // PAGE, KEY_HEADS, PAGE, 2 * dim, dtype=dtype).chunk(2, dim=-1)
    rows, sums = torch.arange(16), new_page_sums(pages[0])
    triton_decode.write_pages(k[:16], v[:16], *pages, sums, rows)
    triton_decode.attend_rows(q[:16], *pages, sums, torch.zeros(16, 128, dtype=torch.int32), rows, CONFIG, 0.1)
    for layout in ("half", "interleaved"):
        turn_triton(q, *torch.empty(2, TOKENS, dim // 2), layout)
    matrices = torch.empty(2, 1024, 3072, dtype=dtype)
    symmetric_product(matrices, symmetric_product(matrices), 0.1, 0.2)


def typed(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return TYPES[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


def compiled(launch: Launch, capability: int) -> Iterator[tuple[str, int, int]]:
    """Yield name, shared memory and size of the program for each choice of tiles."""
    names = launch.fn.arg_names
    for constants, options in launch.choices:
        fixed = launch.constants | constants
        signature = {name: "constexpr" if name in fixed else launch.types[name] for name in names}
        aligned = [name for name in names if signature[name].startswith("*") or (name in ALIGNED and name not in fixed)]
        source = ASTSource(
            launch.fn,
            signature,
            {(names.index(name),): value for name, value in fixed.items()},
            {(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
        )
        done = compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        yield launch.fn.__name__, done.metadata.shared, len(done.asm["cubin"])


def main(dim: str, dtype: str, capability: str, which: str, *kernels: str) -> None:
    limit = SHARED_MEMORY[int(capability)]
    chosen = [one for one in launches(int(dim), getattr(torch, dtype)) if not kernels or one.fn.__name__ in kernels]
    for number, launch in enumerate(chosen):
        for name, shared, size in compiled(launch, int(capability)):
            print(number, name, shared, limit, size, flush=True)
            if which == "first" and shared <= limit:
                break


if __name__ == "__main__":
    main(*sys.argv[1:])
