"""Rotation as a product of complex numbers: the truth that the fast paths are tested against."""

from __future__ import annotations

from typing import Literal

import torch

Layout = Literal["half", "interleaved"]
"""Channels of pair j: ``half`` (j, j + dim / 2) as transformers and vLLM have it, ``interleaved`` (2j, 2j + 1)."""


def rotate_reference(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, layout: Layout = "half") -> torch.Tensor:
    """Same contract as ``rotate``; in float64."""
    width = 2 * cos.shape[1]
    turning, rest = x[..., :width].double(), x[..., width:]
    pairs = turning.unflatten(-1, (2, -1)).transpose(-1, -2) if layout == "half" else turning.unflatten(-1, (-1, 2))
    turn = torch.complex(cos.double(), sin.double())[:, None]
    turned = torch.view_as_real(torch.complex(pairs[..., 0], pairs[..., 1]) * turn)
    out = turned.transpose(-1, -2).flatten(-2) if layout == "half" else turned.flatten(-2)
    return torch.cat([out.to(x.dtype), rest], dim=-1)
