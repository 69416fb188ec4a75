"""Our rotation inside transformers models. There it is a function of each architecture's module, called by name."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import torch

from kernels.rope.op import rotate

FUNCTION = "apply_rotary_pos_emb"
"""transformers' name of it, in every architecture that has one."""
SIGNATURE = ["q", "k", "cos", "sin", "unsqueeze_dim"]


def apply_rotary(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, unsqueeze_dim: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """transformers' contract for the half layout: q [n, H, T, D], k [n, H_kv, T, D], cos, sin [n, T, D] (halves equal).

    With ``unsqueeze_dim`` 2 q and k are [n, T, H, D].
    """
    half = cos.shape[-1] // 2
    cos, sin = (part.expand(q.shape[0], -1, -1)[..., :half].flatten(0, 1) for part in (cos, sin))
    turned = []
    for part in (q, k):
        rows = part.transpose(1, 2) if unsqueeze_dim == 1 else part
        out = rotate(rows.flatten(0, 1), cos, sin).unflatten(0, rows.shape[:2])
        turned.append(out.transpose(1, 2) if unsqueeze_dim == 1 else out)
    return turned[0], turned[1]


def install(model: torch.nn.Module) -> bool:
    """Let the architecture of ``model`` use our rotation from now on, in this process.

    Only where it is found to compute the same (half layout, whole heads); False, and nothing changes, elsewhere.
    """
    found = False
    for name in {type(module).__module__ for module in model.modules()}:
        module: Any = sys.modules[name]
        theirs = getattr(module, FUNCTION, None)
        if theirs is apply_rotary:
            found = True
        elif theirs is not None and _same(theirs):
            setattr(module, FUNCTION, apply_rotary)
            found = True
    return found


def _same(theirs: Any) -> bool:
    """Return whether a function of that name does what ours does, on an example that tells the layouts apart."""
    if list(inspect.signature(theirs).parameters) != SIGNATURE:
        return False
    q, k = (torch.linspace(-1, 2, heads * 24).view(1, heads, 3, 8) for heads in (2, 1))
    angles = torch.linspace(0, 3, 12).view(1, 3, 4)
    cos, sin = (torch.cat([part, part], -1) for part in (angles.cos(), angles.sin()))
    try:
        turned = theirs(q, k, cos, sin)
    except RuntimeError:  # it wants tables of another shape (gpt-oss: of half the width)
        return False
    return all(torch.allclose(a, b, atol=1e-5) for a, b in zip(turned, apply_rotary(q, k, cos, sin), strict=True))
