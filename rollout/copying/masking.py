"""Log-probs where only some tokens are allowed: the same function for who samples and for who trains on the samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import torch

Allowed = npt.NDArray[Any] | None
"""Token ids; ``None``: all."""


def allowed_mask(allowed: Sequence[Allowed], size: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Return [n, ``size``] bool: which tokens each of n rows allows. Raises ``ValueError`` for a row without any."""
    mask = torch.ones(len(allowed), size, dtype=torch.bool)
    for row, ids in enumerate(allowed):
        if ids is None:
            continue
        if not len(ids):
            raise ValueError(f"row {row} allows no token at all")
        mask[row] = False
        mask[row, torch.as_tensor(ids, dtype=torch.long)] = True
    return mask.to(device)


def masked_logits(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return ``logits`` [n, V] with minus infinity where ``mask`` [n, V] is false."""
    return logits.masked_fill(~mask, -torch.inf)


def masked_logprobs(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return log-probs [n, V] in nats and float32, renormalised over the tokens that ``mask`` [n, V] allows.

    Where all are allowed these are the bits of ``log_softmax``. What is not allowed has minus infinity and no gradient.
    """
    return masked_logits(logits.float(), mask).log_softmax(-1)
