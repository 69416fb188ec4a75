"""Sums over the tokens of each sequence of a packed batch, and their divisors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rl.objectives.config import LengthNorm

if TYPE_CHECKING:
    from rl.learner.batch import Batch


def sequence_sums(values: torch.Tensor, sequence: torch.Tensor, n: int) -> torch.Tensor:
    """Return [n] sums of ``values`` [L] over the tokens of each sequence; ``sequence`` [L]: which of the n each belongs
    to.
    """
    return values.new_zeros(n).index_add(0, sequence, values)


def reference_of(batch: Batch) -> torch.Tensor:
    """Return the reference's log-probs [L]. Raises ``ValueError`` for a batch without them."""
    if batch.reference_logprobs is None:
        raise ValueError(
            "minibatch has no reference log-probs: call Learner.reference on it first, for an objective whose needs "
            "have reference=True"
        )
    return batch.reference_logprobs


def length_norms(response_tokens: torch.Tensor, kind: LengthNorm, max_tokens: int) -> torch.Tensor:
    """Return the divisor [n] of each sequence's loss: 1 (the paper), its loss tokens, or the cap of a response.

    ``response_tokens`` [n]: tokens that carry loss, at least 1. Without division long responses dominate the gradient.
    """
    if kind == "response":
        return response_tokens.to(torch.float32)
    divisor = float(max_tokens) if kind == "max_tokens" else 1.0
    return torch.full(response_tokens.shape, divisor, device=response_tokens.device)
