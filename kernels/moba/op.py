"""``moba_attention``: checks, dispatch by device, and the autograd function [2502.13189 §2.3]."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch

from kernels.moba import cpu
from kernels.moba.dense import full_attention, split
from kernels.moba.layout import MobaConfig, Span, spans
from kernels.varlen import PLANS, Boundaries, boundaries, index


def check_heads(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """``ValueError`` unless q [Tq, H, D] and k, v [Tk, H_kv, D] fit each other."""
    fit = q.dim() == k.dim() == 3 and k.shape == v.shape and q.shape[2] == k.shape[2]
    if not fit or not k.shape[1] or q.shape[1] % k.shape[1]:
        raise ValueError(
            "MoBA wants q [Tq, H, D] and k, v [Tk, H_kv, D] with H a multiple of H_kv; got "
            f"q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}"
        )
    if not q.dtype == k.dtype == v.dtype or not q.is_floating_point():
        raise ValueError(f"MoBA wants q, k and v in one floating-point dtype, got {q.dtype}, {k.dtype}, {v.dtype}")


def path_of(q: torch.Tensor) -> ModuleType:
    """Return the module whose ``forward`` and ``backward`` compute on this tensor's device."""
    if q.device.type == "cpu":
        return cpu
    if q.device.type != "cuda":
        raise ValueError(f"MoBA runs on cpu and cuda devices, not on {q.device.type}")
    if q.dtype == torch.float64 or q.shape[2] > 256:
        raise ValueError(f"MoBA on cuda wants float16, bfloat16 or float32 and D <= 256, got {q.dtype}, {q.shape[2]}")
    from kernels.moba import gpu  # needs Triton, which CPU builds of torch do not bring

    return gpu


class _Moba(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        path: ModuleType,
        call: tuple[Sequence[Span], MobaConfig, float],
        options: dict[str, bool],
    ) -> torch.Tensor:
        out, saved = path.forward(q, k, v, *call)
        ctx.save_for_backward(q, k, v, *saved)
        ctx.path, ctx.call, ctx.options = path, call, options
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, *saved = ctx.saved_tensors
        parts = ctx.path.backward(grads[0].contiguous(), q, k, v, tuple(saved), *ctx.call, **ctx.options)
        return *(part.to(q.dtype) for part in parts), None, None, None


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    sequences: Sequence[Span],
    config: MobaConfig,
    scale: float,
    path: ModuleType,
    deterministic: bool = False,
) -> torch.Tensor:
    """``moba_attention`` for checked inputs, on the given path."""
    with torch.autocast(q.device.type, enabled=False):  # the dtypes are the caller's
        if path is cpu:  # which cuts early positions off by itself, and adds in one order always
            return _Moba.apply(q.contiguous(), k.contiguous(), v.contiguous(), cpu, (sequences, config, scale), {})
        options = {"deterministic": deterministic or torch.are_deterministic_algorithms_enabled()}
        routed = MobaConfig(config.block_size, config.top_k)
        if config.full_below <= routed.dense_tokens:  # such positions see their whole past anyway
            return _Moba.apply(q, k, v, path, (sequences, routed, scale), options)
        cut = _cut(tuple(sequences), config.full_below, q.device)
        out = []
        if cut.early:
            keys, values = (torch.cat([part[rows] for rows in cut.early_keys]) for part in (k, v))
            out.append(full_attention(q[cut.early_rows], keys, values, cut.early, scale))
        if cut.late:
            out.append(_Moba.apply(q[cut.late_rows], k, v, path, (cut.late, routed, scale), options))
        return torch.cat(out)[cut.order]


@dataclass(frozen=True)
class _Cut:
    """A call cut where its queries begin to choose blocks."""

    early: tuple[Span, ...]
    early_keys: tuple[slice, ...]
    early_rows: torch.Tensor
    """Rows of q before that position."""
    late: tuple[Span, ...]
    late_rows: torch.Tensor
    order: torch.Tensor
    """Where each row of q is among the early rows and, behind them, the late ones."""


@functools.lru_cache(PLANS)
def _cut(sequences: tuple[Span, ...], edge: int, device: torch.device) -> _Cut:
    early, early_keys, late, late_queries = split(sequences, edge)
    late_rows = np.concatenate([np.arange(rows.start, rows.stop) for rows in late_queries] or [np.arange(0)])
    early_rows = np.setdiff1d(np.arange(sum(span.q_len for span in sequences)), late_rows)
    order = np.concatenate([early_rows, late_rows]).argsort()
    return _Cut(
        *(tuple(early), tuple(early_keys), index(early_rows, device)),
        *(tuple(late), index(late_rows, device), index(order, device)),
    )


def moba_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens: Boundaries,
    block_size: int,
    top_k: int,
    *,
    cu_seqlens_k: Boundaries | None = None,
    scale: float | None = None,
    full_below: int = 0,
    deterministic: bool = False,
) -> torch.Tensor:
    """Mixture of block attention over packed sequences: each query sees its own block and top_k - 1 past ones.

    q [Tq, H, D] and k, v [Tk, H_kv, D] after the rotary embedding, in one dtype (float64 on CPUs only), H a multiple
    of H_kv. ``cu_seqlens`` [n + 1] holds 0 and the end of each sequence in q, and in k and v too unless
    ``cu_seqlens_k`` is given: then a sequence's queries are the last of its keys' positions (chunked prefill, prefix
    hits). ``scale`` defaults to D^-0.5. Queries at positions below ``full_below`` attend to their whole past.
    ``deterministic`` asks for gradients that are bitwise reproducible, as ``torch.use_deterministic_algorithms`` does;
    outputs always are, and on CPUs gradients too. Returns [Tq, H, D]; the choice of blocks carries no gradient.
    ``ValueError`` for shapes and boundaries that do not fit.
    """
    check_heads(q, k, v)
    config = MobaConfig(block_size, top_k, full_below)
    ends_k = cu_seqlens if cu_seqlens_k is None else cu_seqlens_k
    sequences = spans(boundaries(cu_seqlens), boundaries(ends_k), q.shape[0], k.shape[0])
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return attend(q, k, v, sequences, config, scale, path_of(q), deterministic)
