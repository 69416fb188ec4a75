"""Rotate queries or keys by their positions; the backward pass turns the gradient back."""

from __future__ import annotations

from typing import Any

import torch

from kernels.rope.reference import Layout


def _pairs(x: torch.Tensor, half: int, layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
    """Views of the two channels of every pair [T, H, half]."""
    if layout == "half":
        return x[..., :half], x[..., half : 2 * half]
    return x[..., 0 : 2 * half : 2], x[..., 1 : 2 * half : 2]


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, layout: Layout) -> torch.Tensor:
    """In float32 (float64 stays), without temporaries of x's size when x is in that dtype already."""
    half = cos.shape[1]
    dtype = torch.promote_types(x.dtype, torch.float32)
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    first, second = _pairs(x.to(dtype), half, layout)
    cosine, sine = cos[:, None].to(dtype), sin[:, None].to(dtype)
    one, two = _pairs(out, half, layout)
    torch.mul(first, cosine, out=one).addcmul_(second, sine, value=-1)
    torch.mul(second, cosine, out=two).addcmul_(first, sine)
    out[..., 2 * half :] = x[..., 2 * half :]
    return out.to(x.dtype)


def turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Return the forward pass alone, for checked inputs."""
    if x.device.type == "cuda":
        from kernels.rope.triton_kernel import turn_triton

        return turn_triton(x, cos, sin, layout)
    return _turn(x, cos, sin, layout)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, layout: Layout) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.layout = layout
        return turn(x, cos, sin, layout)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return turn(grads[0], cos, -sin, ctx.layout), None, None, None


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, layout: Layout = "half") -> torch.Tensor:
    """x [T, H, D] turned by the angles of its rows: cos and sin [T, d / 2], d <= D; channels from d on pass unchanged.

    Computed in float32 (float64 stays), returned in x's dtype. ``-sin`` turns back. ``ValueError`` on shapes that do
    not fit.
    """
    if x.dim() != 3 or cos.shape != sin.shape or cos.shape[0] != x.shape[0] or 2 * cos.shape[1] > x.shape[2]:
        raise ValueError(
            f"rotate wants x [T, H, D] and cos, sin [T, d / 2] with d <= D; got x {list(x.shape)}, "
            f"cos {list(cos.shape)}, sin {list(sin.shape)}"
        )
    return _Rotate.apply(x, cos, sin, layout)
