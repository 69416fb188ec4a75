"""Check that the first optimiser step moves every parameter that it should."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import nn

from rl.optim.shards import Shards, local

NOTICEABLE = 1e-6
"""Smaller gradients are rounding, which AdamW's epsilon swallows."""
LOOKED_AT = 64
"""Values of each parameter that are compared, those with the largest gradients."""
_EXPERT = re.compile(r"(\bexperts\.)\d+(?=\.)")


class Unmoved(RuntimeError):
    """Parameters that training should change stayed as they were."""


@dataclass(frozen=True)
class _Values:
    """Some values of a parameter before the step."""

    where: torch.Tensor
    """[n] int64, indices into the flattened parameter, or into this rank's rows of it."""
    before: torch.Tensor
    """[n]."""


class Watch:
    """Looks at a policy's trainable parameters before and after one step; keeps a few values of each.

    ``unused``: parameters that what is minimised does not depend on. Of sharded parameters each rank looks at its rows,
    and all agree: a parameter has moved if it has on any rank. Both methods are collective then, one sum each.
    """

    def __init__(self, policy: nn.Module, unused: Collection[nn.Parameter] = ()) -> None:
        left_out = set(unused)
        self._parameters = {n: p for n, p in policy.named_parameters() if p.requires_grad and p not in left_out}
        self._shards = Shards.of(self._parameters.items())
        self._kept: dict[str, _Values] = {}

    def before(self) -> None:
        """Note the values before the step, when gradients are there. Raises ``Unmoved`` for a parameter that the
        backward pass did not reach.
        """
        (named,) = self._anywhere({name for name, p in self._parameters.items() if p.grad is not None})
        reached = {as_one(name) for name in named}
        silent = [name for name in self._parameters if as_one(name) not in reached]
        if silent:
            raise Unmoved(f"{_listed(silent)} got no gradient in the first step: k15 does not train this model right")
        # An adapter's A has no gradient while its B is 0, and a key bias never has one.
        self._kept = {name: _largest(p) for name, p in self._parameters.items() if _noticeable(p)}

    def after(self, lr: float) -> None:
        """Raise ``Unmoved`` for a parameter with a gradient that a step at ``lr`` left as it was.

        Steps below the spacing of a parameter's values could not show.
        """
        stayed, moved = set[str](), set[str]()
        for name, kept in self._kept.items():
            if lr > 2 * torch.finfo(kept.before.dtype).eps * kept.before.abs().max().item():
                as_before = torch.equal(_at(self._parameters[name], kept.where), kept.before)
                (stayed if as_before else moved).add(name)
        stayed, moved = self._anywhere(stayed, moved)
        if still := [name for name in self._parameters if name in stayed - moved]:
            raise Unmoved(
                f"{_listed(still)} did not change in the first step, though there was a gradient: k15 does not train "
                "this model right"
            )

    def _anywhere(self, *names: set[str]) -> list[set[str]]:
        """Return of each set of parameters those that it has on any rank."""
        if self._shards is None:
            return list(names)
        here = torch.tensor([[name in some for name in self._parameters] for some in names], dtype=torch.int32)
        counts = self._shards.total(here).tolist()
        return [{name for name, n in zip(self._parameters, row, strict=True) if n} for row in counts]


def _noticeable(parameter: nn.Parameter) -> bool:
    if parameter.grad is None:
        return False
    gradient = local(parameter.grad)
    return gradient.numel() > 0 and bool(gradient.abs().max() > NOTICEABLE)


def _largest(parameter: nn.Parameter) -> _Values:
    assert parameter.grad is not None
    gradient = local(parameter.grad)
    where = gradient.abs().flatten().topk(min(LOOKED_AT, gradient.numel())).indices
    return _Values(where, _at(parameter, where).clone())


def _at(parameter: nn.Parameter, where: torch.Tensor) -> torch.Tensor:
    return local(parameter).detach().flatten()[where]


def as_one(name: str) -> str:
    """Return a parameter's name without the number of its expert: an expert that got no token is not unused."""
    return _EXPERT.sub(r"\1*", name)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
