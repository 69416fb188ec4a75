"""Token log-probabilities through full logits: the truth that the chunked path is tested against."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LogitTransform:
    """Transform of the head's output z by an architecture, before the softmax: c tanh(scale z / c)."""

    scale: float = 1.0
    """Factor on the logits."""
    softcap: float | None = None
    """c, the bound of the logits (Gemma 2); ``None``: scale z as it is."""

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits of any shape -> logits."""
        logits = logits if self.scale == 1.0 else logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


PLAIN = LogitTransform()
"""Logits as they come out of the head."""


def token_logprobs_reference(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    bias: torch.Tensor | None = None,
    temperature: float = 1.0,
    transform: LogitTransform = PLAIN,
) -> tuple[torch.Tensor, torch.Tensor]:
    """hidden [T, d], weight [V, d], targets [T], bias [V] -> log-prob of each target [T] and entropy [T] (no gradient).

    In nats, of the distribution softmax(transform(logits) / temperature) over the full vocabulary. Materialises [T, V].
    """
    logits = transform(torch.nn.functional.linear(hidden, weight, bias)) / temperature
    logprobs = logits.log_softmax(dim=-1)
    entropy = -(logprobs.exp() * logprobs).sum(dim=-1)
    return logprobs.gather(1, targets[:, None]).squeeze(1), entropy.detach()
