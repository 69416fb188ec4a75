"""What a learner keeps on its device from one call to the next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from rl.learner.learner import Learner


def held(learner: Learner) -> Iterator[torch.Tensor]:
    """Yield weights, buffers, gradients and moments; of many ranks, this one's shards. Some may come twice."""
    policy = learner.policy
    # A state dict is asked for parameters: FSDP2 always shows its shards there, and nowhere else.
    for tensor in (*policy.state_dict(keep_vars=True).values(), *policy.buffers()):
        yield tensor
        if tensor.grad is not None:
            yield tensor.grad
    yield from learner.optimizer.tensors()
