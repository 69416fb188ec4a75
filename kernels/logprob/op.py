"""Token log-probabilities without materialised logits: linear + log-softmax in chunks, recomputed in the backward."""

from __future__ import annotations

from typing import Any

import torch

CHUNK_ELEMENTS = 1 << 26
"""Logits held at once when the caller names no chunk: 256 MiB in float32, whatever the vocabulary. Fewer make the
products so narrow that reading the head's weights takes most of the time."""
LOWEST = -1e4
"""Log-probs below this count as this in the entropy, to which they add nothing: exp of it is 0."""


def _logits(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, temperature: float) -> torch.Tensor:
    """[chunk, V] in float32 (float64 stays): the product runs in the inputs' dtype, everything after it in full."""
    logits = hidden @ weight.mT
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    if bias is not None:
        logits = logits + bias.to(logits.dtype)
    return logits if temperature == 1.0 else logits.div_(temperature)


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
        chunk: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        logp = torch.empty(hidden.shape[0], dtype=dtype, device=hidden.device)
        entropy, normalizer = torch.empty_like(logp), torch.empty_like(logp)
        for start in range(0, hidden.shape[0], chunk):
            rows = slice(start, start + chunk)
            logits = _logits(hidden[rows], weight, bias, temperature)
            normalizer[rows] = torch.logsumexp(logits, dim=-1)
            logp[rows] = logits.gather(1, targets[rows, None]).squeeze(1) - normalizer[rows]
            # Masked logits (-inf) have probability 0 and must not make the entropy NaN.
            shifted = logits.sub_(normalizer[rows, None]).clamp_min_(LOWEST)
            entropy[rows] = -torch.linalg.vecdot(shifted.exp(), shifted)
        ctx.save_for_backward(hidden, weight, bias, targets, normalizer)
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, targets, normalizer = ctx.saved_tensors
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros(weight.shape, dtype=normalizer.dtype, device=weight.device) if need_weight else None
        grad_bias = torch.zeros(bias.shape, dtype=normalizer.dtype, device=bias.device) if need_bias else None
        for start in range(0, hidden.shape[0], ctx.chunk):
            rows = slice(start, start + ctx.chunk)
            logits = _logits(hidden[rows], weight, bias, ctx.temperature)
            # d logp / d logits = (onehot - softmax) / temperature, scaled by the incoming gradient of each token.
            scale = grads[0][rows, None].to(logits.dtype) / ctx.temperature
            grad_logits = logits.sub_(normalizer[rows, None]).exp_().mul_(-scale)
            grad_logits.scatter_add_(1, targets[rows, None], scale)
            if grad_bias is not None:
                grad_bias += grad_logits.sum(dim=0)
            grad_logits = grad_logits.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(grad_logits, weight, out=grad_hidden[rows])
            if grad_weight is not None:
                _add_product(grad_weight, grad_logits.mT, hidden[rows])
        cast_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        cast_bias = None if grad_bias is None else grad_bias.to(bias.dtype)
        return grad_hidden, cast_weight, cast_bias, None, None, None


def token_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    bias: torch.Tensor | None = None,
    temperature: float = 1.0,
    chunk: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-prob of each target and entropy, both [T], in nats and float32; the entropy carries no gradient.

    hidden [T, d] and weight [V, d] (cast to hidden's dtype), targets [T] ints, bias [V] or ``None``. The distribution
    is softmax(logits / temperature) over the full vocabulary (behaviour-policy rule). At most ``chunk`` rows of logits
    exist at a time, in the forward and in the backward pass; float64 inputs are computed in float64.
    """
    if hidden.shape[0] != targets.shape[0]:
        raise ValueError(f"{hidden.shape[0]} hidden states but {targets.shape[0]} targets")
    chunk = chunk or max(1, CHUNK_ELEMENTS // weight.shape[0])
    logp, entropy = _apply(hidden, weight.to(hidden.dtype), bias, targets, temperature, chunk)
    return logp, entropy


def _apply(*args: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Run outside of autocast: it would turn the product into bfloat16 behind the caller's back."""
    with torch.autocast(args[0].device.type, enabled=False):
        return _TokenLogprobs.apply(*args)
