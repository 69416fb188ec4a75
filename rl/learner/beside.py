"""Windows of evidence beside the sequences of a batch (NBCE [2403.17552]).

A batch's own sequences are what the policy reads without evidence. Of each window that spoke for one of its tokens
there is a row here: that window, and the response behind it. The log-prob of a loss token is that of the distribution
which the window that spoke for it and the row without evidence merge to: the one that drew it (behaviour-policy rule).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from rollout.types import Rollout


@dataclass(frozen=True)
class Beside:
    """m rows of U tokens for n sequences with L loss tokens."""

    tokens: torch.Tensor
    """[U] int32."""
    lengths: torch.Tensor
    """[m] int64 tokens of each row."""
    owner: torch.Tensor
    """[m] int64 the sequence that each row belongs to, ascending."""
    row: torch.Tensor
    """[L] int64 the row that spoke for each loss token, counted among those of its sequence; -1: none did."""
    place: torch.Tensor
    """[L] int64 where in that row the token is."""
    beta: float
    """Weight of the contrast with the row without evidence."""

    @property
    def cu_seqlens(self) -> torch.Tensor:
        """[m + 1] int32: 0, then the end of each row."""
        return torch.nn.functional.pad(self.lengths.cumsum(0), (1, 0)).int()

    def behind(self, tokens: torch.Tensor, cu_seqlens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return packed ``tokens`` [T] and their ``cu_seqlens`` [n + 1] with these rows behind them."""
        return torch.cat([tokens, self.tokens]), torch.cat([cu_seqlens, cu_seqlens[-1] + self.cu_seqlens[1:]])

    def sizes(self, sequences: int) -> torch.Tensor:
        """[n] tokens of the rows of each sequence."""
        return torch.zeros(sequences, dtype=torch.int64).index_add(0, self.owner, self.lengths)

    def predicting(self, sequence: torch.Tensor, sequences: int) -> torch.Tensor:
        """[L] index in ``tokens`` of the state that predicts each loss token in the row that spoke for it; -1: none.

        ``sequence`` [L]: the sequence of each loss token.
        """
        counts = torch.bincount(self.owner, minlength=sequences)
        first = counts.cumsum(0) - counts
        starts = self.cu_seqlens[:-1].long()
        if not len(starts):
            return torch.full_like(self.row, -1)
        index = (first[sequence] + self.row.clamp(min=0)).clamp(max=len(starts) - 1)
        return torch.where(self.row < 0, -1, starts[index] + self.place - 1)

    def select(self, indices: Sequence[int], spans: Sequence[tuple[int, int]]) -> Beside:
        """Return what belongs to the sequences named, in that order; ``spans``: the loss tokens of each of them."""
        rows = [(self.owner == index).nonzero().flatten() for index in indices]
        order = torch.cat([self.owner[:0], *rows])
        parts = self.tokens.split(self.lengths.tolist())
        loss = torch.cat([self.row[:0], *(torch.arange(*span) for span in spans)])
        return replace(
            self,
            tokens=torch.cat([parts[row] for row in order.tolist()]) if len(order) else self.tokens[:0],
            lengths=self.lengths[order],
            owner=torch.tensor([place for place, own in enumerate(rows) for _ in own], dtype=torch.int64),
            row=self.row[loss],
            place=self.place[loss],
        )

    def to(self, device: torch.device | str) -> Beside:
        """Return it on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("tokens", "lengths", "owner", "row", "place")}
        return replace(self, **moved)


def concatenated(parts: Sequence[tuple[Beside | None, int, int]]) -> Beside | None:
    """Return the rows of all parts, given with their numbers of sequences and of loss tokens; ``None``: none has any.

    Raises ``ValueError`` for parts with different weights.
    """
    some = [part for part, _, _ in parts if part is not None]
    if not some:
        return None
    if len({part.beta for part in some}) > 1:
        raise ValueError("sequences merged with different weights cannot be one batch")
    nothing = torch.empty(0, dtype=torch.int64)
    owners, at = [], 0
    for part, sequences, _ in parts:
        owners.append(nothing if part is None else part.owner + at)
        at += sequences
    return Beside(
        tokens=torch.cat([part.tokens for part in some]),
        lengths=torch.cat([part.lengths for part in some]),
        owner=torch.cat(owners),
        row=torch.cat([torch.full((loss,), -1) if part is None else part.row for part, _, loss in parts]),
        place=torch.cat(
            [torch.zeros(loss, dtype=torch.int64) if part is None else part.place for part, _, loss in parts]
        ),
        beta=some[0].beta,
    )


def beside_of(rollouts: Sequence[Rollout], loss_mask: torch.Tensor, beta: float) -> Beside | None:
    """Return the rows of rollouts whose packed tokens carry loss where ``loss_mask`` [T] says so; ``None`` where none
    of them had evidence.
    """
    if not any(rollout.prompt.windows for rollout in rollouts):
        return None
    rows: list[np.ndarray] = []
    owner: list[int] = []
    spoke: list[np.ndarray] = []
    places: list[np.ndarray] = []
    at = 0
    for number, rollout in enumerate(rollouts):
        begin, at = at + len(rollout.prompt), at + len(rollout.prompt) + rollout.size
        loss = loss_mask[begin:at].numpy()
        pointers, response = rollout.pointers, rollout.token_ids
        # A window is read as far as the last token that it spoke for.
        used = {int(k): int(np.flatnonzero((pointers == k) & loss)[-1]) for k in np.unique(pointers[loss]) if k}
        order = {k: row for row, k in enumerate(used)}
        windows = [rollout.prompt.windows[k - 1].token_ids for k in used]
        rows += [np.concatenate([w, response[:last]]) for w, last in zip(windows, used.values(), strict=True)]
        owner += [number] * len(used)
        spoke.append(np.array([order.get(int(k), -1) for k in pointers[loss]], np.int64))
        before = np.array([0 if not k else len(rollout.prompt.windows[k - 1]) for k in pointers[loss]], np.int64)
        places.append(before + np.flatnonzero(loss))
    return Beside(
        tokens=torch.from_numpy(np.concatenate([*rows, np.empty(0, np.int32)]).astype(np.int32)),
        lengths=torch.tensor([len(row) for row in rows], dtype=torch.int64),
        owner=torch.tensor(owner, dtype=torch.int64),
        row=torch.from_numpy(np.concatenate([*spoke, np.empty(0, np.int64)])),
        place=torch.from_numpy(np.concatenate([*places, np.empty(0, np.int64)])),
        beta=beta,
    )
