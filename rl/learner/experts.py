"""Biases that share tokens out among experts, in the place of an auxiliary loss [2502.16982 App. C].

After each step the bias of an expert that had fewer tokens than the mean goes up and that of one that had more goes
down, by as much: b_i <- b_i + u (sign(e_i) - mean(sign(e))), e_i = mean load - load_i. The last term is Moonlight's:
the mean of the biases stays where it is. They choose who speaks, and do not weigh what is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn

if TYPE_CHECKING:
    from rl.learner.passes import Passes

BIAS = "e_score_correction_bias"
"""Name of the biases in transformers' models of this layout (DeepSeek-V3, GLM-4, Kimi K2)."""


class Loads:
    """How many tokens each expert of a model had in passes with gradients, since they were last asked for.

    What gradient checkpointing computes twice counts twice.
    """

    def __init__(self, model: nn.Module, passes: Passes | None = None) -> None:
        """``passes``: those that run the model, whose ranks count together; ``None``: whatever runs it counts."""
        self._passes = passes
        self.gates = {
            name: module
            for name, module in model.named_modules()
            if isinstance(getattr(module, BIAS, None), torch.Tensor)
        }
        """Gates with biases, by name."""
        self._counts = {name: torch.zeros(len(gate.get_buffer(BIAS))) for name, gate in self.gates.items()}
        for name, gate in self.gates.items():
            gate.register_forward_hook(self._counting(name))

    def _counting(self, name: str) -> Any:
        def count(_: nn.Module, __: Any, output: Any) -> None:
            if not torch.is_grad_enabled() or (self._passes is not None and self._passes.idle):
                return
            chosen = [part for part in output if isinstance(part, torch.Tensor) and not part.is_floating_point()]
            if chosen:
                self._counts[name] += torch.bincount(chosen[-1].flatten(), minlength=len(self._counts[name])).cpu()

        return count

    def total(self) -> dict[str, torch.Tensor]:
        """Return tokens per expert [experts] of every gate, over all ranks, and begin anew."""
        ranks = None if self._passes is None else self._passes.ranks
        found = {}
        for name, counts in self._counts.items():
            found[name] = counts.clone()
            if ranks is not None and ranks.size > 1:
                dist.all_reduce(found[name])
            counts.zero_()
        return found

    @torch.no_grad()
    def balance(self, rate: float) -> float | None:
        """Move all biases by ``rate``; return by how much the fullest expert's load is above the mean, as a share of it
        (its largest over gates). ``None`` without experts, or tokens.
        """
        worst = None
        for name, load in self.total().items():
            mean = load.mean()
            if not mean:
                continue
            bias = self.gates[name].get_buffer(BIAS)
            bias += (rate * moved(load)).to(bias)
            worst = max(worst or 0.0, (load.max() / mean - 1).item())
        return worst


def moved(load: torch.Tensor) -> torch.Tensor:
    """Return sign(e) - mean(sign(e)) of the loads [experts], e = mean - load."""
    signs = (load.mean() - load).sign()
    return signs - signs.mean()
