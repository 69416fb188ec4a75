"""vLLM's rotary embedding on CPUs rotates every head, however queries come."""

from __future__ import annotations

import pytest
import torch

from tests.needs import needs_vllm

pytestmark = needs_vllm
HEADS, ROTATED, KEPT = 3, 16, 8


@pytest.mark.parametrize("by_pairs", [True, False])
def test_every_head_is_rotated_when_queries_come_by_head(by_pairs: bool) -> None:
    """As views of wider heads, as DeepSeek's are; the first head alone was, before."""
    from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

    from rollout.engines.vllm_rotary import mend

    mend()
    mend()
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(5, heads, KEPT + ROTATED, generator=generator)[..., KEPT:] for heads in (HEADS, 1))
    angles = torch.outer(torch.arange(5.0), 10_000 ** (-torch.arange(0, ROTATED, 2) / ROTATED))
    layer = RotaryEmbedding.__new__(RotaryEmbedding)
    torch.nn.Module.__init__(layer)
    layer.head_size, layer.is_neox_style = ROTATED, not by_pairs
    layer.register_buffer("cos_sin_cache", torch.cat([angles.cos(), angles.sin()], 1))
    wanted = [turned(part, angles, by_pairs) for part in (q, k)]
    for found, truth in zip(RotaryEmbedding.forward_cpu(layer, torch.arange(5), q, k), wanted, strict=True):
        torch.testing.assert_close(found, truth)
    flat, none = RotaryEmbedding.forward_cpu(layer, torch.arange(5), q.flatten(1).contiguous(), None)
    assert none is None
    assert flat.shape == (5, HEADS * ROTATED)


def turned(heads: torch.Tensor, angles: torch.Tensor, by_pairs: bool) -> torch.Tensor:
    """[T, heads, D] as pairs that lie side by side, or half of D apart, rotated by angles [T, D / 2]."""
    shape = (-1, 2) if by_pairs else (2, -1)
    one, other = heads.unflatten(-1, shape).unbind(-1 if by_pairs else -2)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    both = torch.stack([one * cos - other * sin, other * cos + one * sin], -1 if by_pairs else -2)
    return both.flatten(-2)
