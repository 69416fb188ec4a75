"""Token log-probabilities through full logits: the truth that the chunked path is tested against."""

from __future__ import annotations

import torch


def token_logprobs_reference(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    bias: torch.Tensor | None = None,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """hidden [T, d], weight [V, d], targets [T], bias [V] -> log-prob of each target [T] and entropy [T] (no gradient).

    In nats, of the distribution softmax(logits / temperature) over the full vocabulary. Materialises [T, V].
    """
    logits = torch.nn.functional.linear(hidden, weight, bias) / temperature
    logprobs = logits.log_softmax(dim=-1)
    entropy = -(logprobs.exp() * logprobs).sum(dim=-1)
    return logprobs.gather(1, targets[:, None]).squeeze(1), entropy.detach()
