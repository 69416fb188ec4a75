"""The arithmetic of NBCE [2403.17552]: from the logits of n + 1 rows to one distribution."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rollout.evidence.config import MergingConfig

NO_SUPPORT = -100.0
"""Log-probability at or below which the model without evidence says nothing about a token: it is not penalised."""
FEW = 64
"""Tokens looked at first for a nucleus; sorting all of a vocabulary takes most of a step otherwise."""


@dataclass(frozen=True)
class Merged:
    """One step of one group of rows."""

    logits: torch.Tensor
    """[V] merged, not normalised; -inf: cannot be drawn."""
    pointer: int
    """k*, the window with the least entropy, counted from 1; of the poolings without a vote, too."""
    entropies: torch.Tensor
    """[n] entropy of each window's (truncated) distribution in nats, before stickiness."""


def merge(logits: torch.Tensor, merging: MergingConfig, last: int = 0) -> Merged:
    """Merge the rows of a group: row 0 without evidence, rows 1 to n with a window each; row 0 has no vote.

    [n + 1, V] logits, -inf for what no row may draw; ``last``: the window that spoke for the token before, 0 for none.
    """
    logprobs = nucleus(logits.float().log_softmax(-1), merging.nucleus)
    rows, prior = logprobs[1:], logprobs[0]
    entropies = entropy(rows)
    vote = entropies.clone()
    if last and merging.pooling == "entropy":
        vote[last - 1] -= merging.eta
    pointer = int(vote.argmin()) + 1
    pooled = rows[pointer - 1] if merging.pooling == "entropy" else rows.mean(0)
    return Merged(contrast(pooled, prior, merging.weight(len(rows))), pointer, entropies)


def contrast(pooled: torch.Tensor, prior: torch.Tensor, beta: float) -> torch.Tensor:
    """Return (1 + beta) pooled - beta prior where the prior says something, else pooled. [..., V] each."""
    supported = prior > NO_SUPPORT
    return torch.where(supported, (1 + beta) * pooled - beta * prior.where(supported, 0.0), pooled)


def entropy(logprobs: torch.Tensor) -> torch.Tensor:
    """Return -sum p log p in nats along the last dimension; what has no probability adds nothing. [..., V] -> [...]."""
    return -(logprobs.exp() * logprobs.clamp(min=NO_SUPPORT)).sum(-1)


def nucleus(logprobs: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keep of each row the fewest likeliest tokens whose mass reaches ``top_p``; others become -inf, and the kept ones
    stay as they are. [m, V] -> [m, V].
    """
    if top_p >= 1:
        return logprobs
    size = min(FEW, logprobs.shape[-1])
    while True:
        best, order = logprobs.topk(size, -1)
        mass = best.exp().cumsum(-1)
        if size == logprobs.shape[-1] or bool((mass[:, -1] >= top_p).all()):
            break
        size = min(8 * size, logprobs.shape[-1])
    outside = mass - best.exp() >= top_p
    outside[:, 0] = False
    return torch.full_like(logprobs, -torch.inf).scatter_(-1, order, best.masked_fill(outside, -torch.inf))
