"""QK-clip: attention logits that grow too large are taken back at their source, the projections of queries and keys.

Muon lets them grow beyond 100 in some layers [2502.16982 App. D]; its follow-up bounds them. After a step every head
whose largest logit S was above the bound t gets queries and keys that make it t: their product is scaled by t / S, the
root of that on each side. Keys that several heads share take the root of the smallest factor among them, and each
head's queries the rest, so that heads below the bound keep their logits. In latent attention the rotated key is shared
by all heads: there the rotated queries take all of the factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn

from kernels.varlen import WATCH
from rl.learner.forward import causal_lm
from rl.optim.shards import chunk, local

if TYPE_CHECKING:
    from rl.learner.ranks import Ranks


class QkClipError(ValueError):
    """A model whose logits cannot be bounded so; one line: why, and what to do."""


@dataclass(frozen=True)
class _Layer:
    """An attention layer, and the heads of its projections."""

    module: Any
    heads: int
    groups: int
    """Query heads that share a key."""
    latent: tuple[int, int, int] | None
    """Widths of a head's queries that are not rotated, that are, and of its values; ``None``: no latent attention."""


class QkClip:
    """Bounds the attention logits of a model by ``bound``, from what was seen since the last step."""

    def __init__(self, model: nn.Module, bound: float, ranks: Ranks | None = None) -> None:
        self._bound, self._ranks = bound, ranks
        self._layers = [_layer(module, causal_lm(model).config.get_text_config()) for module in _attention(model)]
        if not self._layers:
            raise QkClipError(
                f"learner.qk_clip: {type(causal_lm(model)).__name__} has no layer with q_proj and k_proj of its own; "
                "leave it out"
            )
        self._seen = [torch.zeros(layer.heads) for layer in self._layers]
        for number, layer in enumerate(self._layers):
            setattr(layer.module, WATCH, self._watching(number))

    def _watching(self, number: int) -> Any:
        def watch(largest: torch.Tensor) -> None:
            self._seen[number] = torch.maximum(self._seen[number], largest.cpu())

        return watch

    @torch.no_grad()
    def clip(self) -> tuple[float, int]:
        """Scale the heads that were above the bound; return the largest logit that was seen, and how many they are."""
        largest = torch.stack(self._seen)
        if self._ranks is not None and self._ranks.size > 1:
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        for seen in self._seen:
            seen.zero_()
        for layer, logits in zip(self._layers, largest, strict=True):
            if (logits > self._bound).any():
                _scale(layer, (self._bound / logits.clamp(min=self._bound)))
        return largest.max().item(), int((largest > self._bound).sum())


def _attention(model: nn.Module) -> list[nn.Module]:
    """Return the layers with projections of queries and keys."""
    found = []
    for module in model.modules():
        has_queries = isinstance(getattr(module, "q_proj", None) or getattr(module, "q_b_proj", None), nn.Linear)
        if has_queries and isinstance(getattr(module, "k_proj", None) or getattr(module, "kv_b_proj", None), nn.Linear):
            found.append(module)
    return found


def _layer(module: Any, text: Any) -> _Layer:
    if hasattr(module, "q_norm") or hasattr(module, "k_norm"):
        raise QkClipError(
            f"learner.qk_clip: {type(module).__name__} norms its queries and keys, which bounds logits; leave it out"
        )
    heads = text.num_attention_heads
    if hasattr(module, "kv_b_proj"):
        return _Layer(module, heads, 1, (module.qk_nope_head_dim, module.qk_rope_head_dim, module.v_head_dim))
    return _Layer(module, heads, heads // (getattr(text, "num_key_value_heads", None) or heads), None)


def _scale(layer: _Layer, factors: torch.Tensor) -> None:
    """Scale the logits of each head by its factor [heads]."""
    module, root = layer.module, factors.sqrt()
    if layer.latent is not None:
        plain, rotated, values = layer.latent
        queries = module.q_proj if module.q_proj is not None else module.q_b_proj
        _scale_rows(
            queries, [part for one, both in zip(root, factors, strict=True) for part in ((one, plain), (both, rotated))]
        )
        _scale_rows(module.kv_b_proj, [part for one in root for part in ((one, plain), (torch.tensor(1.0), values))])
        return
    least = factors.view(-1, layer.groups).amin(1)
    shared = least.sqrt().repeat_interleave(layer.groups)
    width = module.q_proj.weight.shape[0] // layer.heads
    _scale_rows(module.q_proj, [(one, width) for one in factors / shared])
    _scale_rows(module.k_proj, [(one, width) for one in least.sqrt()])


def _scale_rows(linear: nn.Linear, parts: Sequence[tuple[torch.Tensor, int]]) -> None:
    """Multiply the outputs of a projection: so many neighbouring rows by each factor."""
    factors = torch.cat([factor.view(1).expand(rows) for factor, rows in parts])
    for parameter in (linear.weight, linear.bias):
        if parameter is None:
            continue
        rows = local(parameter)
        mine = factors
        if len(rows) != len(factors):
            whole: Any = parameter
            mesh = whole.device_mesh
            dim = mesh.ndim - 1
            here = chunk(len(factors), mesh.size(dim), mesh.get_local_rank(dim))
            mine = factors[here.start : here.stop]
        rows.mul_(mine.to(rows).view(-1, *[1] * (rows.ndim - 1)))
