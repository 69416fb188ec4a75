"""vLLM's rotary embedding on CPUs, for queries that come by head.

Its kernel takes a row of queries for one head when they come as [T, heads, D], as DeepSeek's do, and rotates only the
first; as [T, heads x D] it rotates all. Lives in vLLM's processes.
"""

from __future__ import annotations

from typing import Any

import torch


def mend() -> None:
    """Hand vLLM's kernel rows of all heads. Idempotent."""
    from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

    kernel = RotaryEmbedding.forward_cpu
    if getattr(kernel, "by_row", False):
        return

    def forward_cpu(
        self: Any, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if query.dim() != 3:
            return kernel(self, positions, query, key)  # type: ignore[no-any-return]
        rows = query.flatten(1).contiguous(), None if key is None else key.flatten(1).contiguous()
        turned, other = kernel(self, positions, *rows)
        return turned.view(query.shape), None if key is None else other.view(key.shape)

    forward_cpu.by_row = True  # type: ignore[attr-defined]
    RotaryEmbedding.forward_cpu = forward_cpu  # type: ignore[method-assign]
