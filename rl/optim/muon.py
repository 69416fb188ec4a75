"""Muon [2502.16982 §2.1, eq. 2] on the parameters of one process.

    M <- mu M + G;  U = G + mu M;  O = NewtonSchulz(U);  W <- (1 - lr wd) W - lr 0.2 sqrt(max(A, B)) O

Which parameter goes where is decided by ``rl.optim.routing``; ``rl.optim.distributed`` does the same to the shards of
many ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from kernels.newton_schulz import orthogonalize
from rl.optim.routing import Split
from rl.optim.shards import local

MOMENTUM = "momentum_buffer"


@dataclass(frozen=True)
class Matching:
    """How long Muon's steps are: matched in RMS to AdamW's, so that its learning rates carry over
    [2502.16982 §2.2, App. A].
    """

    kind: Literal["shape", "width", "measured", "none"] = "shape"
    """``shape``: rms x sqrt(max(A, B)), right for full rank. ``width``: rms x sqrt(hidden size), for all alike.
    ``measured``: to ``rms`` exactly, whatever the rank. ``none``: sqrt(max(1, A / B)), as Muon was first published.
    """
    rms: float = 0.2
    """RMS of an update over the learning rate."""
    width: int = 0
    """Hidden size of the model, for ``width``."""

    def scale(self, shape: Sequence[int]) -> float:
        """Return the factor on the orthogonal update of a matrix [A, B]."""
        rows, columns = shape
        if self.kind == "none":
            return math.sqrt(max(1, rows / columns))
        return self.rms * math.sqrt(self.width if self.kind == "width" else max(rows, columns))

    def settle(self, output: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return an orthogonal update [A, B] as ``scale`` is meant for it: ``measured``, of full rank's norm.

        Rounded to ``dtype``, that of the iteration, whatever it comes in: so ranks, which send it in that, have the
        same bits as one process.
        """
        if self.kind != "measured":
            return output
        precise = output.to(torch.promote_types(output.dtype, torch.float32))
        norm = torch.linalg.vector_norm(precise).clamp(min=1e-7)
        return (precise * (math.sqrt(min(output.shape)) / norm)).to(dtype).to(output.dtype)

    def squares(self, output: torch.Tensor) -> torch.Tensor:
        """Return the sum of squares of the update that an orthogonal matrix makes, without the learning rate."""
        precise = torch.promote_types(output.dtype, torch.float32)
        return (self.scale(output.shape) * torch.linalg.vector_norm(output, dtype=precise)).square()


def nesterov(grads: Sequence[torch.Tensor], momenta: Sequence[torch.Tensor], momentum: float) -> list[torch.Tensor]:
    """Return U = G + mu M after M <- mu M + G in place, for each gradient.

    The sums are in the gradient's precision; a narrower M is rounded once, after its share of U is taken.
    """
    if not grads:  # of which torch's list operations refuse to have none
        return []
    sums = [m.to(g.dtype) for m, g in zip(momenta, grads, strict=True)]
    torch._foreach_mul_(sums, momentum)
    torch._foreach_add_(sums, list(grads))
    for kept, total in zip(momenta, sums, strict=True):
        if kept is not total:
            kept.copy_(total)
    return list(torch._foreach_add(list(grads), sums, alpha=momentum))


def orthogonal(
    updates: Sequence[torch.Tensor], splits: Sequence[Split], steps: int, dtype: torch.dtype, matching: Matching
) -> list[list[torch.Tensor]]:
    """Return the orthogonalised matrices [A, B] of each update, in the order and dtype of its split."""
    # A part may be a strided view of more than two dimensions: its rows are all but the last one.
    parts = [[part.flatten(0, -2) for part in split(update)] for update, split in zip(updates, splits, strict=True)]
    flat = orthogonalize([part for cut in parts for part in cut], steps, dtype)
    outputs = iter([matching.settle(output, dtype) for output in flat])
    return [[next(outputs) for _ in cut] for cut in parts]


def move(
    weight: torch.Tensor, split: Split, outputs: Sequence[torch.Tensor], lr: float, decay: float, matching: Matching
) -> None:
    """Step a parameter, in place: decay it, then subtract the scaled orthogonal matrices of its split."""
    weight.mul_(decay)
    for view, output in zip(split(weight), outputs, strict=True):
        view.add_(output.reshape(view.shape).to(view), alpha=-lr * matching.scale(output.shape))


class Muon(torch.optim.Optimizer):
    """Momentum in sum form, Nesterov, Newton-Schulz, RMS-matched steps, unscaled decoupled decay
    [2502.16982 §2.1, §2.2].

    ``splits`` [one per parameter]: how each falls into matrices; the scale uses the shape of the part
    [2502.16982 §2.2]. Momentum is kept in ``momentum_dtype``, by default the parameter's; only the iteration runs in
    ``dtype``. Gradients must be finite. The buffers are not those of ``torch.optim.Muon``, which keeps an average
    instead of a sum.
    """

    def __init__(
        self,
        params: Sequence[nn.Parameter],
        splits: Sequence[Split],
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
        ns_steps: int = 5,
        dtype: torch.dtype = torch.float32,
        momentum_dtype: torch.dtype | None = None,
        matching: Matching = Matching(),
    ) -> None:
        self._matching = matching
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "ns_steps": ns_steps})
        self._split = dict(zip(params, splits, strict=True))
        self._dtype = dtype
        self._momentum_dtype = momentum_dtype
        self.update_rms = 0.0
        """RMS of the last step's update over the learning rate, decay left out; about ``matching.rms`` for full-rank
        gradients."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. ``closure`` is not supported."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        total, elements = 0.0, 0
        for group in self.param_groups:
            total += self._update(group).item()
            elements += sum(p.numel() for p in group["params"] if p.grad is not None)
        self.update_rms = math.sqrt(total / max(1, elements))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        super().load_state_dict(state_dict)
        for p, state in self.state.items():  # torch gives every moment the dtype of its parameter
            state[MOMENTUM] = state[MOMENTUM].to(self._momentum_dtype or p.dtype)

    def _update(self, group: dict[str, Any]) -> torch.Tensor:
        """Step the parameters of a group; return the sum of squares of their updates over the learning rate."""
        return self._step_whole([p for p in group["params"] if p.grad is not None], group)

    def _step_whole(
        self, params: Sequence[nn.Parameter], group: dict[str, Any], device: torch.device | None = None
    ) -> torch.Tensor:
        """Step parameters whose matrices are whole on this rank; return the sum of squares as above.

        ``device``: where to orthogonalise, by default where they are.
        """
        splits = [self._split[p] for p in params]
        updates = [update.to(device or update.device) for update in self._nesterov(params, group["momentum"])]
        outputs = orthogonal(updates, splits, group["ns_steps"], self._dtype, self._matching)
        total = torch.zeros((), device=device)
        for p, split, cut in zip(params, splits, outputs, strict=True):
            move(local(p), split, cut, group["lr"], 1 - group["lr"] * group["weight_decay"], self._matching)
            for output in cut:
                total = total.to(output.device) + self._matching.squares(output)
        return total

    def _nesterov(self, params: Sequence[nn.Parameter], momentum: float) -> list[torch.Tensor]:
        """Return the update that each parameter's gradient makes, before it is orthogonalised; steps the momenta.

        Of sharded parameters: this rank's rows.
        """
        momenta = []
        for p in params:
            if MOMENTUM not in self.state[p]:
                self.state[p][MOMENTUM] = torch.zeros_like(p, dtype=self._momentum_dtype or p.dtype)
            momenta.append(local(self.state[p][MOMENTUM]))
        return nesterov([local(p.grad) for p in params if p.grad is not None], momenta, momentum)
