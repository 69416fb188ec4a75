"""Muon on the shards of many ranks: every matrix is orthogonalised once, by the rank that owns it.

Each rank steps the momenta of its rows; their updates go to the owners, which orthogonalise the matrices and send the
rows back; each rank steps its weights. The wire has the type of Newton-Schulz, which casts its input anyway: given
equal gradients, the result is that of one process, bit for bit where a matrix product does not depend on its batch (on
CPUs). Experts are sharded as whole matrices and stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rl.optim import ownership
from rl.optim.exchange import Exchange
from rl.optim.muon import Matching, Muon, orthogonal
from rl.optim.routing import Split, parts
from rl.optim.shards import ShardingError, Shards, chunk, local

BUCKET = 1 << 28
"""Elements of whole matrices that a rank holds at a time, however large the model is: half a GiB in bfloat16, and four
of them during an exchange. Half of it would make the owners of two matrices of a 7B model take them in two rounds.
"""


@dataclass(frozen=True)
class Traffic:
    """What the last step of a rank put on the wire."""

    bytes: int = 0
    """That left for other ranks; of the sum over all ranks at the end: its size."""
    collectives: int = 0


@dataclass(frozen=True)
class _Piece:
    """A block of a matrix in this rank's rows."""

    rows: slice
    columns: slice
    scale: float
    """Factor on the orthogonal update of the whole matrix."""


class ShardedMuon(Muon):
    """``Muon`` for parameters that FSDP2 has sharded by rows over ranks, on a mesh [shard] or [replicate, shard].

    ``names`` [one per parameter]: for messages. ``bucket``: elements of whole matrices that a rank holds at a time.
    Everything else is as in ``Muon``, and so are the steps. ``step`` is collective: every rank calls it, with gradients
    for the same parameters. Raises ``ShardingError`` for a parameter that is not sharded so.
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
        matching: Matching = Matching(),  # noqa: B008 - frozen
        *,
        names: Sequence[str],
        bucket: int = BUCKET,
    ) -> None:
        shards = Shards.of(zip(names, params, strict=True))
        if shards is None:
            raise ShardingError(f"parameter {names[0]} is whole on every rank; Muon steps such parameters")
        super().__init__(params, splits, lr, weight_decay, momentum, ns_steps, dtype, momentum_dtype, matching)
        self._params, self._names, self._shards = list(params), list(names), shards
        self._plan = ownership.plan([p.shape for p in params], splits, shards.ranks, bucket)
        self._rounds = [(members, Exchange(layout, shards, dtype)) for members, layout in self._plan.rounds]
        self._pieces = {i: self._cut(i) for members, _ in self._rounds for i in members}
        self.traffic = Traffic()
        """Of the last step, on this rank."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add the one group of parameters; ``ValueError`` for a second, since buckets and owners are fixed."""
        if self.param_groups:
            raise ValueError("ShardedMuon has one group of parameters; make another optimizer for others")
        super().add_param_group(param_group)

    def _cut(self, i: int) -> list[_Piece]:
        """Return the blocks of a parameter's matrices that lie in this rank's rows."""
        rows = chunk(self._params[i].shape[0], self._shards.ranks, self._shards.rank)
        return [
            _Piece(
                slice(run.start, run.stop),
                slice(part.columns.start, part.columns.stop),
                self._matching.scale(part.shape),
            )
            for part in parts(self._params[i].shape, self._split[self._params[i]])
            for run in part.within(rows)
        ]

    def _update(self, group: dict[str, Any]) -> torch.Tensor:
        self._check_gradients()
        sums = torch.zeros(1 + len(self._params), dtype=torch.float64)
        sums[1:] = torch.tensor([p.grad is not None for p in self._params])
        sums = sums.to(self._shards.device)
        sent = sums.nbytes
        for members, exchange in self._rounds:
            sums[0] += self._step_exchanged(members, exchange, group)
            sent += exchange.layout.sent(self._shards.rank) * self._dtype.itemsize
        for stacks in self._plan.stacks:
            present = [self._params[i] for i in stacks if self._params[i].grad is not None]
            sums[0] += self._step_whole(present, group, self._shards.device)
        self.traffic = Traffic(sent, 2 * len(self._rounds) + 1)
        total, *counts = self._shards.total(sums).tolist()
        for name, count in zip(self._names, counts, strict=True):
            if count not in (0, self._shards.ranks):
                raise ShardingError(
                    f"{name} has a gradient on {count:.0f} of {self._shards.ranks} ranks; make every rank use it"
                )
        return torch.tensor(total)

    def _check_gradients(self) -> None:
        for name, p in zip(self._names, self._params, strict=True):
            if p.grad is not None and getattr(p.grad, "placements", ()) != getattr(p, "placements", ()):
                raise ShardingError(f"gradient of {name} is not sharded as the parameter is; reduce it first")

    def _step_exchanged(self, members: Sequence[int], exchange: Exchange, group: dict[str, Any]) -> torch.Tensor:
        """Step this rank's rows; return the sum of squares over the learning rate of the matrices that it owns."""
        params = [self._params[i] for i in members]
        present = [p for p in params if p.grad is not None]
        updates = dict(zip(present, self._nesterov(present, group["momentum"]), strict=True))
        # Without a gradient it goes along as zeros: what is sent must not depend on what one rank alone can see.
        rows = [updates[p] if p in updates else torch.zeros_like(local(p)) for p in params]
        owned = exchange.to_owners(rows)
        del updates, rows
        matrices = [m.view(params[i].shape) for m, i in zip(owned, exchange.owned, strict=True)]
        splits = [self._split[params[i]] for i in exchange.owned]
        total = torch.zeros((), device=self._shards.device)
        outputs = orthogonal(matrices, splits, group["ns_steps"], self._dtype, self._matching)
        for matrix, split, cut in zip(matrices, splits, outputs, strict=True):
            for view, output in zip(split(matrix), cut, strict=True):
                view.copy_(output.reshape(view.shape))
                total += self._matching.squares(output)
        del outputs
        for i, p, update in zip(members, params, exchange.to_rows(owned), strict=True):
            if p.grad is not None:
                self._move_rows(local(p).view(update.shape), self._pieces[i], update, group)
        return total

    def _move_rows(
        self, weight: torch.Tensor, pieces: Sequence[_Piece], update: torch.Tensor, group: dict[str, Any]
    ) -> None:
        """Do what ``move`` does to a parameter to this rank's rows [r, C] of it."""
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        for piece in pieces:
            view = weight[piece.rows, piece.columns]
            view.add_(update[piece.rows, piece.columns].to(view), alpha=-group["lr"] * piece.scale)
