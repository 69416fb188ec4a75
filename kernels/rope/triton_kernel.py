"""The rotation as one Triton kernel: x is read once and written once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.rope.reference import Layout


@triton.jit  # type: ignore[misc]
def _turn_kernel(  # type: ignore[no-untyped-def]
    x, out, cos, sin, stride_t, stride_h, stride_d, heads, dim, half,
    HEADS: tl.constexpr, PAIRS: tl.constexpr, REST: tl.constexpr, INTERLEAVED: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    pair = tl.arange(0, PAIRS)
    inside = (head < heads)[:, None] & (pair < half)[None, :]
    first = pair * 2 if INTERLEAVED else pair
    second = first + 1 if INTERLEAVED else pair + half
    source = x + token * stride_t + head[:, None] * stride_h
    target = out + (token * heads + head[:, None]) * dim
    c = tl.load(cos + token * half + pair, mask=pair < half, other=0.0)[None, :]
    s = tl.load(sin + token * half + pair, mask=pair < half, other=0.0)[None, :]
    a = tl.load(source + first[None, :] * stride_d, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(source + second[None, :] * stride_d, mask=inside, other=0.0).to(tl.float32)
    tl.store(target + first[None, :], (a * c - b * s).to(out.dtype.element_ty), mask=inside)
    tl.store(target + second[None, :], (b * c + a * s).to(out.dtype.element_ty), mask=inside)
    if REST > 0:
        column = 2 * half + tl.arange(0, REST)
        left = (head < heads)[:, None] & (column < dim)[None, :]
        tl.store(target + column[None, :], tl.load(source + column[None, :] * stride_d, mask=left), mask=left)


def turn_triton(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, layout: Layout) -> torch.Tensor:
    """x [T, H, D] of any strides, cos and sin [T, d / 2] -> contiguous [T, H, D] in x's dtype."""
    tokens, heads, dim = x.shape
    half = cos.shape[1]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel() == 0:
        return out
    pairs, rest = triton.next_power_of_2(half), dim - 2 * half
    group = max(1, min(triton.next_power_of_2(heads), 2048 // pairs))
    _turn_kernel[(tokens, triton.cdiv(heads, group))](
        x, out, cos.float().contiguous(), sin.float().contiguous(), *x.stride(), heads, dim, half,
        HEADS=group, PAIRS=pairs, REST=triton.next_power_of_2(rest) if rest else 0, INTERLEAVED=layout == "interleaved",
    )  # fmt: skip
    return out
