"""QK-clip: attention logits that grow too large are taken back at their source, the projections of queries and keys.

Muon lets them grow beyond 100 in some layers [2502.16982 App. D]; its follow-up bounds them. After a step every head
whose largest logit S was above the bound t gets queries and keys that make it t: their product is scaled by t / S, the
root of that on each side. Keys that several heads share take the root of the smallest factor among them, and each
head's queries the rest, so that heads below the bound keep their logits. In latent attention the rotated key is shared
by all heads: there the rotated queries take all of the factor.

Where S was seen in the forward passes of a step, the step itself may add to it; the next one takes that back.
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
from rl.learner.policy import PolicyError
from rl.optim.shards import chunk, local

if TYPE_CHECKING:
    from rl.learner.passes import Passes
    from rl.learner.spec import LearnerSpec

KEY = "learner.qk_clip"
LATENT = ("q_a_layernorm", "kv_a_layernorm")
"""Norms of what queries and keys are made from, not of them."""


@dataclass(frozen=True)
class Clipped:
    """What was done to the attention of a model after a step."""

    largest: float
    """Largest attention logit of the step's forward passes."""
    heads: int
    """Heads of all layers that were above the bound, and were scaled."""


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

    def __init__(self, model: nn.Module, bound: float, passes: Passes | None = None) -> None:
        """``passes``: those that run the model, whose ranks watch together; ``None``: whatever runs it counts.

        Raises ``PolicyError`` for a model whose logits cannot be bounded so.
        """
        self._bound, self._passes = bound, passes
        text = causal_lm(model).config.get_text_config()
        self._layers = [_layer(module, text) for module in _attention(model)]
        if not self._layers:
            raise PolicyError(
                f"{KEY}: {type(causal_lm(model)).__name__} has no layer with projections of its own for queries and "
                "keys; leave it out"
            )
        self._seen = self._nothing()
        for number, layer in enumerate(self._layers):
            setattr(layer.module, WATCH, self._watching(number))

    def _nothing(self) -> list[torch.Tensor]:
        return [torch.full((layer.heads,), -torch.inf, dtype=torch.float64) for layer in self._layers]

    def _watching(self, number: int) -> Any:
        def watch(largest: torch.Tensor) -> None:
            if self._passes is None or not self._passes.idle:
                self._seen[number] = torch.maximum(self._seen[number], largest.cpu().double())

        return watch

    def forget(self) -> None:
        """Begin anew, after a step that was not taken."""
        self._seen = self._nothing()

    @torch.no_grad()
    def clip(self) -> Clipped:
        """Scale the heads that were above the bound, and begin anew. Collective over the ranks."""
        largest = torch.stack(self._seen)
        ranks = None if self._passes is None else self._passes.ranks
        if ranks is not None and ranks.size > 1:
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        self.forget()
        for layer, logits in zip(self._layers, largest, strict=True):
            if (logits > self._bound).any():
                _scale(layer, self._bound / logits.clamp(min=self._bound))
        return Clipped(largest.max().item(), int((largest > self._bound).sum()))


def clipper(model: nn.Module, spec: LearnerSpec, passes: Passes) -> QkClip | None:
    """Return what bounds the attention logits of a learner's model; ``None`` where the configuration asks for none.

    Raises ``PolicyError`` for what cannot be bounded.
    """
    bound = spec.learner.qk_clip
    if bound is None:
        return None
    if spec.model.lora is not None:
        raise PolicyError(f"{KEY}: adapters (model.lora) leave queries and keys as they are; leave one of them out")
    if spec.learner.ranks.sequence > 1:
        raise PolicyError(
            f"{KEY}: ranks that share a sequence (learner.ranks.sequence {spec.learner.ranks.sequence}) see no whole "
            "row of logits; leave one of them out"
        )
    return QkClip(model, bound, passes)


def _attention(model: nn.Module) -> list[nn.Module]:
    """Return the layers with projections of queries and keys that are trained (a vision tower's are not)."""
    found = []
    for module in model.modules():
        queries = getattr(module, "q_proj", None) or getattr(module, "q_b_proj", None)
        keys = getattr(module, "k_proj", None) or getattr(module, "kv_b_proj", None)
        if isinstance(queries, nn.Linear) and isinstance(keys, nn.Linear) and queries.weight.requires_grad:
            found.append(module)
    return found


def _layer(module: Any, text: Any) -> _Layer:
    norms = [name for name, _ in module.named_children() if "norm" in name and name not in LATENT]
    if norms or getattr(text, "clip_qkv", None) is not None:
        how = f"norms its queries and keys ({norms[0]})" if norms else "cuts off its queries and keys (clip_qkv)"
        raise PolicyError(f"{KEY}: {type(module).__name__} {how}, which bounds logits; leave it out")
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
