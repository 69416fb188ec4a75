"""Token log-probabilities without materialised logits: linear + log-softmax in chunks, recomputed in the backward."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from kernels.logprob.reference import PLAIN, LogitTransform

CHUNK_ELEMENTS = 1 << 25
"""Logits held at once when the caller names no chunk: 128 MiB in float32, whatever the vocabulary."""
CACHED_ELEMENTS = 1 << 18
"""Logits per CPU core that the passes after the product work on at a time: they find them in the core's cache. Over a
whole chunk each pass would wait for main memory, and together they took as long as the product."""
LOWEST = -1e4
"""Log-probs below this count as this in the entropy, to which they add nothing: exp of it is 0."""


def _full(logits: torch.Tensor, bias: torch.Tensor | None, transform: LogitTransform) -> torch.Tensor:
    """Transformed logits, from a product in the inputs' dtype: float32, or float64 where it was that."""
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    if bias is not None:
        logits = logits + bias.to(logits.dtype)
    return transform(logits)


def _scaled(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return what the softmax is taken of."""
    return logits if temperature == 1.0 else logits / temperature


def _through_transform(grad: torch.Tensor, logits: torch.Tensor, transform: LogitTransform) -> torch.Tensor:
    """Gradient of the head's output from that of the transformed ``logits``; changes ``grad``."""
    if transform.softcap is not None:  # d c tanh(u / c) / du = 1 - tanh^2
        grad.mul_(1 - (logits / transform.softcap).square())
    return grad if transform.scale == 1.0 else grad.mul_(transform.scale)


def _chunks(hidden: torch.Tensor, weight: torch.Tensor, chunk: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """(rows of ``hidden``, their products with ``weight`` [rows, V]); a product takes the place of the one before."""
    buffer = hidden.new_empty((min(chunk, hidden.shape[0]), weight.shape[0]))
    for start in range(0, hidden.shape[0], chunk):
        rows = slice(start, min(start + chunk, hidden.shape[0]))
        yield rows, torch.mm(hidden[rows], weight.mT, out=buffer[: rows.stop - rows.start])


def _parts(rows: slice, logits: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield a chunk in pieces for the passes after the product: that fit into caches on CPUs, in one piece
    elsewhere.
    """
    count = rows.stop - rows.start
    if logits.device.type == "cpu":  # a row is one core's work
        count = torch.get_num_threads() * max(1, CACHED_ELEMENTS // logits.shape[1])
    for part in logits.split(max(1, count)):
        yield slice(rows.start, rows.start + len(part)), part
        rows = slice(rows.start + len(part), rows.stop)


def _add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """total += a @ b, without a product of the head's size beside it where the dtypes allow that."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        temperature: float,
        transform: LogitTransform,
        chunk: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        logp = torch.empty(hidden.shape[0], dtype=dtype, device=hidden.device)
        entropy = torch.empty_like(logp)
        for chunk_rows, products in _chunks(hidden, weight, chunk):
            for rows, part in _parts(chunk_rows, products):
                logprobs = _scaled(_full(part, bias, transform), temperature).log_softmax(-1)
                logp[rows] = logprobs.gather(1, targets[rows, None]).squeeze(1)
                # Masked logits (-inf) have probability 0 and must not make the entropy NaN.
                logprobs.clamp_min_(LOWEST)
                entropy[rows] = -torch.linalg.vecdot(logprobs.exp(), logprobs)
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.temperature, ctx.transform, ctx.chunk = temperature, transform, chunk
        ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, targets = ctx.saved_tensors
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        dtype, grad = grads[0].dtype, grads[0] / ctx.temperature
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=dtype) if need_weight else None
        grad_bias = torch.zeros_like(bias, dtype=dtype) if need_bias else None
        for chunk_rows, products in _chunks(hidden, weight, ctx.chunk):
            for rows, part in _parts(chunk_rows, products):
                # d logp / d logits = (onehot - softmax) / temperature, scaled by the incoming gradient of each token.
                scale = grad[rows, None]
                logits = _full(part, bias, ctx.transform)
                grad_logits = _scaled(logits, ctx.temperature).softmax(-1).mul_(-scale)
                grad_logits.scatter_add_(1, targets[rows, None], scale)
                grad_logits = _through_transform(grad_logits, logits, ctx.transform)
                if grad_bias is not None:
                    grad_bias += grad_logits.sum(dim=0)
                part.copy_(grad_logits)
            if grad_hidden is not None:
                torch.mm(products, weight, out=grad_hidden[chunk_rows])
            if grad_weight is not None:
                _add_product(grad_weight, products.mT, hidden[chunk_rows])
        cast_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        cast_bias = None if grad_bias is None else grad_bias.to(bias.dtype)
        return grad_hidden, cast_weight, cast_bias, None, None, None, None


def token_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    bias: torch.Tensor | None = None,
    temperature: float = 1.0,
    chunk: int | None = None,
    transform: LogitTransform = PLAIN,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-prob of each target and entropy, both [T], in nats and float32; the entropy carries no gradient.

    hidden [T, d] and weight [V, d] (cast to hidden's dtype), targets [T] ints, bias [V] or ``None``. The distribution
    is softmax(transform(logits) / temperature) over the full vocabulary (behaviour-policy rule). At most ``chunk`` rows
    of logits exist at a time, in the forward and in the backward pass; float64 inputs are computed in float64.
    ``ValueError`` for shapes that do not fit, and for a temperature or chunk that is not positive.
    """
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"log-probs want hidden [T, d] and weight [V, d]; got {list(hidden.shape)} and {list(weight.shape)}"
        )
    if targets.shape != hidden.shape[:1]:
        raise ValueError(f"{hidden.shape[0]} hidden states but targets of shape {list(targets.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"the head has {weight.shape[0]} rows but a bias of shape {list(bias.shape)}")
    if not temperature > 0 or (chunk is not None and chunk < 1):
        raise ValueError(f"log-probs want a temperature above 0 and a chunk of at least 1; got {temperature}, {chunk}")
    chunk = chunk or max(1, CHUNK_ELEMENTS // weight.shape[0])
    logp, entropy = _apply(hidden, weight.to(hidden.dtype), bias, targets, temperature, transform, chunk)
    return logp, entropy


def _apply(*args: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Run outside of autocast: it would turn the product into bfloat16 behind the caller's back."""
    with torch.autocast(args[0].device.type, enabled=False):
        return _TokenLogprobs.apply(*args)
