"""The optimiser of a policy: Muon for matrices, AdamW for the rest [2502.16982 §2.2]."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from rl.learner.config import OptimizerConfig
from rl.optim.distributed import ShardedMuon
from rl.optim.muon import Matching, Muon
from rl.optim.routing import Route, head_routes, routes
from rl.optim.shards import Shards, local


def adamw_update_rms(optimizer: torch.optim.AdamW, shards: Shards | None = None) -> float:
    """Return the RMS of AdamW's last update over the learning rate, decay left out; read from its moments, tensor by
    tensor.

    ``shards``: how its parameters are sharded; then this is collective, and sums over the ranks once.
    """
    squares, elements = 0.0, 0
    for group in optimizer.param_groups:
        beta1, beta2 = group["betas"]
        for p in group["params"]:
            state = optimizer.state.get(p)
            if not state:
                continue
            steps = float(state["step"])
            denominator = (local(state["exp_avg_sq"]) / (1 - beta2**steps)).sqrt_().add_(group["eps"])
            update = local(state["exp_avg"]) / denominator
            squares += update.square().sum().item() / (1 - beta1**steps) ** 2
            elements += p.numel()
    if shards is not None:
        squares = shards.total(torch.tensor([squares], dtype=torch.float64)).item()
    return math.sqrt(squares / max(1, elements))


class PolicyOptimizer:
    """Muon and AdamW under one learning rate, with a ramp after each reset [2501.12599 §2.3.2; 2502.16982 §2.2]."""

    def __init__(self, parts: Sequence[Route], config: OptimizerConfig, device: str = "cpu", width: int = 0) -> None:
        """``width``: the model's hidden size, which some ``matching`` asks for."""
        self.config = config
        matrices = [route for route in parts if config.kind == "muon" and route.role == "matrix"]
        rest = [route for route in parts if route not in matrices]
        self.shards = Shards.of((route.name, route.parameter) for route in parts)
        """The ranks that share the parameters; ``None`` for whole ones. All methods that step or measure are collective
        then.
        """
        self.muon = _muon(matrices, config, device, width, sharded=self.shards is not None) if matrices else None
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

    def tensors(self) -> Iterator[torch.Tensor]:
        """Yield all moments."""
        for optimizer in self._optimizers():
            for state in optimizer.state.values():
                yield from (value for value in state.values() if isinstance(value, torch.Tensor))

    def update_rms(self) -> dict[str, float]:
        """Return the RMS of the last step's update over the learning rate, for ``muon`` and ``adamw``."""
        values = {} if self.muon is None else {"muon": self.muon.update_rms}
        return values if self.adamw is None else values | {"adamw": adamw_update_rms(self.adamw, self.shards)}

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


def _muon(matrices: Sequence[Route], config: OptimizerConfig, device: str, width: int, sharded: bool) -> Muon:
    native = {"auto": "bfloat16" if device == "cuda" else "float32"}.get(config.ns_dtype, config.ns_dtype)
    kind = partial(ShardedMuon, names=[route.name for route in matrices]) if sharded else Muon
    optimizer = kind(
        [route.parameter for route in matrices],
        [route.split for route in matrices],
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        ns_steps=config.ns_steps,
        dtype=getattr(torch, native),
        momentum_dtype=getattr(torch, config.momentum_dtype),
        matching=Matching(config.matching, config.target_rms, width),
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
    given: Any = getattr(model, "config", None)
    width = 0 if given is None else given.get_text_config().hidden_size
    return PolicyOptimizer(parts, config, device, width)
