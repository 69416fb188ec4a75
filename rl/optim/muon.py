"""Muon for matrices, AdamW for the rest [2502.16982 §2.1, eq. 2].

    M <- mu M + G;  U = G + mu M;  O = NewtonSchulz(U);  W <- (1 - lr wd) W - lr 0.2 sqrt(max(A, B)) O

Which parameter goes where is decided by ``rl.optim.routing``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from kernels.newton_schulz import orthogonalize
from rl.config import OptimizerConfig
from rl.optim.routing import Route, Split, head_routes, routes

TARGET_RMS = 0.2
"""Update RMS that Muon's steps are scaled to, so that AdamW's learning rates carry over [2502.16982 §2.2]."""


class Muon(torch.optim.Optimizer):
    """Momentum in sum form, Nesterov, Newton-Schulz, RMS-matched steps, unscaled decoupled decay
    [2502.16982 §2.1, §2.2].

    ``splits`` [one per parameter]: how each falls into matrices; the scale uses the shape of the part
    [2502.16982 §2.2]. Momentum
    is kept in the parameter's dtype; only the iteration runs in ``dtype``. Gradients must be finite.
    The buffers are not those of ``torch.optim.Muon``, which keeps an average instead of a sum.
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
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "ns_steps": ns_steps})
        self._split = dict(zip(params, splits, strict=True))
        self._dtype = dtype
        self.update_rms = 0.0
        """RMS of the last step's update over the learning rate, decay left out; about 0.2 for full-rank gradients."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. ``closure`` is not supported."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        squares = torch.zeros(())
        elements = 0
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            updates = self._nesterov(params, group["momentum"])
            # A part may be a strided view of more than two dimensions: its rows are all but the last one.
            parts = [part for p, update in zip(params, updates, strict=True) for part in self._split[p](update)]
            outputs = orthogonalize([part.flatten(0, -2) for part in parts], group["ns_steps"], self._dtype)
            decay = 1 - group["lr"] * group["weight_decay"]
            remaining = iter(outputs)
            for p in params:
                p.mul_(decay)
                for view in self._split[p](p):
                    output = next(remaining)
                    scale = TARGET_RMS * math.sqrt(max(output.shape))
                    view.add_(output.reshape(view.shape), alpha=-group["lr"] * scale)
                    squares = squares.to(output.device) + (scale * torch.linalg.vector_norm(output)).square()
                    elements += output.numel()
        self.update_rms = math.sqrt(squares.item() / max(1, elements))

    def _nesterov(self, params: list[nn.Parameter], momentum: float) -> list[torch.Tensor]:
        """Return U = G + mu M after M <- mu M + G, for each parameter."""
        buffers = []
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            buffers.append(self.state[p]["momentum_buffer"])
        grads = [p.grad for p in params if p.grad is not None]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, grads)
        return list(torch._foreach_add(grads, buffers, alpha=momentum))


def adamw_update_rms(optimizer: torch.optim.AdamW) -> float:
    """Return the RMS of AdamW's last update over the learning rate, decay left out; read from its moments, tensor by
    tensor.
    """
    squares, elements = 0.0, 0
    for group in optimizer.param_groups:
        beta1, beta2 = group["betas"]
        for p in group["params"]:
            state = optimizer.state.get(p)
            if not state:
                continue
            steps = float(state["step"])
            denominator = (state["exp_avg_sq"] / (1 - beta2**steps)).sqrt_().add_(group["eps"])
            update = state["exp_avg"] / denominator
            squares += update.square().sum().item() / (1 - beta1**steps) ** 2
            elements += p.numel()
    return math.sqrt(squares / max(1, elements))


class PolicyOptimizer:
    """Muon and AdamW under one learning rate, with a ramp after each reset [2501.12599 §2.3.2; 2502.16982 §2.2]."""

    def __init__(self, parts: Sequence[Route], config: OptimizerConfig, device: str = "cpu") -> None:
        self.config = config
        matrices = [route for route in parts if config.kind == "muon" and route.role == "matrix"]
        rest = [route for route in parts if route not in matrices]
        self.muon = _muon(matrices, config, device) if matrices else None
        self.adamw = _adamw(rest, config) if rest else None
        self.steps = 0
        """Steps since the last reset; drives the ramp."""
        self.last_lr = 0.0
        """Learning rate of the last step, ramp included."""

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for optimizer in self._optimizers():
            optimizer.zero_grad(set_to_none=True)

    def step(self, lr: float | None = None) -> None:
        """Take one step at ``lr``, or at the configured rate times the ramp; the AdamW part scales it further."""
        self.steps += 1
        ramp = min(1.0, self.steps / self.config.warmup_steps) if self.config.warmup_steps else 1.0
        self.last_lr = self.config.lr * ramp if lr is None else lr
        for optimizer in self._optimizers():
            for group in optimizer.param_groups:
                group["lr"] = self.last_lr * group["lr_scale"]
            optimizer.step()

    def reset(self) -> None:
        """Forget all moments: each iteration is a different optimisation problem [2501.12599 §2.3.2]."""
        self.steps = 0
        for optimizer in self._optimizers():
            optimizer.state.clear()

    def update_rms(self) -> dict[str, float]:
        """Return the RMS of the last step's update over the learning rate, for ``muon`` and ``adamw``."""
        values = {} if self.muon is None else {"muon": self.muon.update_rms}
        return values if self.adamw is None else values | {"adamw": adamw_update_rms(self.adamw)}

    def state_dict(self) -> dict[str, Any]:
        """Return moments, learning rates and the position in the ramp."""
        parts = {"muon": self.muon, "adamw": self.adamw}
        return {"steps": self.steps} | {name: part.state_dict() for name, part in parts.items() if part is not None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; raises ``ValueError`` when the parts differ (another optimiser kind or
        model).
        """
        parts = {name: part for name, part in (("muon", self.muon), ("adamw", self.adamw)) if part is not None}
        if set(state) != {"steps", *parts}:
            raise ValueError(f"optimizer state has {sorted(state)}, this optimizer needs {sorted(['steps', *parts])}")
        self.steps = state["steps"]
        for name, part in parts.items():
            part.load_state_dict(state[name])

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        return [part for part in (self.muon, self.adamw) if part is not None]


def _muon(matrices: Sequence[Route], config: OptimizerConfig, device: str) -> Muon:
    native = {"auto": "bfloat16" if device == "cuda" else "float32"}.get(config.ns_dtype, config.ns_dtype)
    optimizer = Muon(
        [route.parameter for route in matrices],
        [route.split for route in matrices],
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        ns_steps=config.ns_steps,
        dtype=getattr(torch, native),
    )
    optimizer.param_groups[0]["lr_scale"] = 1.0
    return optimizer


def _adamw(rest: Sequence[Route], config: OptimizerConfig) -> torch.optim.AdamW:
    """Return AdamW, with matrices (in the control arm) at the plain rate, everything else at ``adamw_lr_scale`` times
    it.
    """
    matrices = [route.parameter for route in rest if route.role == "matrix"]
    others = [route.parameter for route in rest if route.role != "matrix"]
    groups = [{"params": matrices, "lr_scale": 1.0}, {"params": others, "lr_scale": config.adamw_lr_scale}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.lr,
        betas=config.adam_betas,
        eps=config.adam_eps,
        weight_decay=config.weight_decay,  # the same for norms and biases: decaying the norms' gain is crucial
        fused=True,
    )


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, device: str = "cpu", head: nn.Module | None = None
) -> PolicyOptimizer:
    """Return the optimiser of a policy: Muon and AdamW, or AdamW alone when ``config.kind`` is ``adamw``.

    ``head``: one beside the LM head, which AdamW takes.

    LoRA matrices always go to AdamW: they are low-rank factors, for which Muon's scale was never tested
    [2502.16982 §2.2].
    """
    parts = [*routes(model), *(head_routes(head) if head is not None else ())]
    return PolicyOptimizer(parts, config, device)
