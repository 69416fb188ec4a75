"""Packed training data: the only type of k15 that holds tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Self

import numpy as np
import torch

from rl.learner import beside
from rl.learner.beside import Beside
from rl.learner.copies import Labeller, of_pairs, of_rollouts
from rl.learner.window import Ages, LossOn, carries_loss, has_loss
from rollout.types import Author, Group, Rollout, Segment, Tokens, WeightVersion, joined

Seed = int | tuple[int, ...]


@dataclass(frozen=True)
class PackCounts:
    """Counts of what ``pack`` kept and left out; every rollout given to it is in exactly one of the four."""

    sequences: int = 0
    """Rollouts that are in the batch."""
    masked: int = 0
    """Ungradable or aborted rollouts in groups that were kept."""
    stale: int = 0
    """Rollouts without a loss token: all of their tokens come from versions that are too old."""
    small_groups: int = 0
    """Rollouts in groups with fewer than two rewards."""

    def __add__(self, other: Self, /) -> Self:
        """Return the counts of both together."""
        return type(self)(*(one + another for one, another in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Batch:
    """n sequences (prompt + response) packed back to back into T tokens. L: tokens that carry loss."""

    tokens: torch.Tensor
    """[T] int32."""
    cu_seqlens: torch.Tensor
    """[n + 1] int32: 0, then the end of each sequence."""
    loss_mask: torch.Tensor
    """[T] bool: sampled tokens whose log-prob enters the loss; never the first token of a sequence."""
    current: torch.Tensor
    """[T] bool: tokens sampled under the version being trained (comparable with the learner's own log-probs)."""
    sampler_logprobs: torch.Tensor
    """[T] float32, nats, at the sampling temperature; 0 outside of responses."""
    advantages: torch.Tensor
    """[n] float32."""
    groups: tuple[str, ...]
    """[n] id of the group that each sequence belongs to."""
    total: int
    """Sequences of the minibatch that this is (part of): what the loss is divided by, however it is cut."""
    reference_logprobs: torch.Tensor | None = None
    """[L] float32: log-probs of the loss tokens under the policy frozen at the start of the iteration."""
    labels: torch.Tensor | None = None
    """[n, m] int64: classes of each sequence, for objectives of whole sequences, which say what each column is."""
    beside: Beside | None = None
    """What the policy reads beside the sequences: of rollouts that were drawn with evidence, their windows."""
    copies: torch.Tensor | None = None
    """[T] int8: which tokens are copied, as ``rollout.copying.labels`` has it; with ``learner.copying`` only."""
    counts: PackCounts = field(default_factory=PackCounts)
    ages: Ages = field(default_factory=Ages)
    """Of all sequences that were packed."""

    def __len__(self) -> int:
        return self.advantages.shape[0]

    @property
    def lengths(self) -> torch.Tensor:
        """[n] tokens of each sequence, prompt included."""
        return self.cu_seqlens.diff()

    @property
    def sizes(self) -> torch.Tensor:
        """[n] tokens that are read for each sequence: its own, and those of its windows."""
        return self.lengths if self.beside is None else self.lengths + self.beside.sizes(len(self))

    @property
    def positions(self) -> torch.Tensor:
        """[L] index of each loss token in ``tokens``."""
        return self.loss_mask.nonzero().flatten()

    @property
    def sequence(self) -> torch.Tensor:
        """[L] the sequence that each loss token belongs to."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.tokens.device), self.loss_lengths)

    @property
    def sampled_logprobs(self) -> torch.Tensor:
        """[L] the sampler's log-probs of the loss tokens."""
        return self.sampler_logprobs[self.loss_mask]

    @property
    def loss_lengths(self) -> torch.Tensor:
        """[n] loss tokens of each sequence."""
        ends = torch.nn.functional.pad(self.loss_mask.cumsum(0), (1, 0))
        return ends[self.cu_seqlens.long()].diff()

    def select(self, indices: Sequence[int]) -> Batch:
        """Return the sequences named, in that order; ``total``, ``counts`` and ``ages`` stay."""
        spans, reference, rows = pieces(self.cu_seqlens, indices), self.reference_logprobs, self.beside
        if reference is not None or rows is not None:
            loss = pieces(torch.nn.functional.pad(self.loss_lengths.cumsum(0), (1, 0)), indices)
            reference = None if reference is None else gathered(reference, loss)
            rows = None if rows is None else rows.select(indices, loss)
        return replace(
            self,
            tokens=gathered(self.tokens, spans),
            cu_seqlens=cumulative([end - start for start, end in spans]),
            loss_mask=gathered(self.loss_mask, spans),
            current=gathered(self.current, spans),
            sampler_logprobs=gathered(self.sampler_logprobs, spans),
            advantages=self.advantages[list(indices)],
            groups=tuple(self.groups[i] for i in indices),
            reference_logprobs=reference,
            labels=None if self.labels is None else self.labels[list(indices)],
            beside=rows,
            copies=None if self.copies is None else gathered(self.copies, spans),
        )

    def minibatches(self, updates: int, seed: Seed) -> list[Batch]:
        """Return ``updates`` near-equal shares of whole sequences, shuffled by ``seed``; no empty ones."""
        order = np.random.default_rng(seed).permutation(len(self))
        shares = [part.tolist() for part in np.array_split(order, updates) if len(part)]
        return [replace(self.select(share), total=len(share)) for share in shares]

    def micro_batches(self, max_tokens: int) -> list[Batch]:
        """Return the sequences in order of length, cut so that no part exceeds ``max_tokens`` (one long sequence may).

        Only memory depends on the cut: every part keeps ``total``, so the summed gradient is that of the whole.
        """
        return [self.select(part) for part in split_by_tokens(self.sizes.tolist(), max_tokens)]

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on another device."""
        reference = self.reference_logprobs
        return replace(
            self,
            tokens=self.tokens.to(device),
            cu_seqlens=self.cu_seqlens.to(device),
            loss_mask=self.loss_mask.to(device),
            current=self.current.to(device),
            sampler_logprobs=self.sampler_logprobs.to(device),
            advantages=self.advantages.to(device),
            reference_logprobs=None if reference is None else reference.to(device),
            labels=None if self.labels is None else self.labels.to(device),
            beside=None if self.beside is None else self.beside.to(device),
            copies=None if self.copies is None else self.copies.to(device),
        )


def concatenated(batches: Sequence[Batch]) -> Batch:
    """Return the sequences of all ``batches``, in order; without any an empty batch.

    They have reference log-probs if all of them had, and labels of either kind if all had.
    """
    if not batches:
        return pack((), (), version=0)
    references = [batch.reference_logprobs for batch in batches]
    known = [values for values in references if values is not None]
    labels = [batch.labels for batch in batches if batch.labels is not None]
    copies = [batch.copies for batch in batches if batch.copies is not None]
    return Batch(
        tokens=torch.cat([batch.tokens for batch in batches]),
        cu_seqlens=cumulative([length for batch in batches for length in batch.lengths.tolist()]),
        loss_mask=torch.cat([batch.loss_mask for batch in batches]),
        current=torch.cat([batch.current for batch in batches]),
        sampler_logprobs=torch.cat([batch.sampler_logprobs for batch in batches]),
        advantages=torch.cat([batch.advantages for batch in batches]),
        groups=tuple(group for batch in batches for group in batch.groups),
        total=sum(batch.total for batch in batches),
        reference_logprobs=torch.cat(known) if len(known) == len(references) else None,
        labels=torch.cat(labels) if len(labels) == len(batches) else None,
        beside=beside.concatenated([(batch.beside, len(batch), int(batch.loss_mask.sum())) for batch in batches]),
        copies=torch.cat(copies) if len(copies) == len(batches) else None,
        counts=sum((batch.counts for batch in batches), PackCounts()),
        ages=sum((batch.ages for batch in batches), Ages()),
    )


def cumulative(lengths: Sequence[int]) -> torch.Tensor:
    """Return [n + 1] int32: 0 and the running sums of ``lengths``."""
    return torch.tensor([0, *np.cumsum(lengths, dtype=np.int64).tolist()], dtype=torch.int32)


def pieces(ends: torch.Tensor, indices: Sequence[int]) -> list[tuple[int, int]]:
    """Return start and end of each sequence named. ``ends`` [n + 1]: 0, then the end of each sequence."""
    bounds = ends.tolist()
    return [(bounds[i], bounds[i + 1]) for i in indices]


def gathered(values: torch.Tensor, spans: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Concatenate spans of ``values`` [T]."""
    return torch.cat([values[start:end] for start, end in spans]) if spans else values[:0]


def split_by_tokens(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Return the indices in order of length, in parts of at most ``max_tokens`` tokens; an item longer than that is
    alone.
    """
    parts: list[list[int]] = []
    filled = max_tokens
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if filled + lengths[index] > max_tokens:
            parts.append([])
            filled = 0
        parts[-1].append(index)
        filled += lengths[index]
    return parts


def _responses(group: Group, advantages: Sequence[float | None]) -> list[tuple[Rollout, float]]:
    pairs = zip(group.rollouts, advantages, strict=True)
    return [(rollout, value) for rollout, value in pairs if value is not None]


def pack(
    groups: Sequence[Group],
    advantages: Sequence[Sequence[float | None]],
    version: WeightVersion,
    loss_on: LossOn = "current",
    window: int = 0,
    beta: float = 0.0,
    label: Labeller | None = None,
) -> Batch:
    """Pack finished groups for training under ``version``.

    ``advantages`` [groups][k], one a rollout; ``None`` masks it. ``loss_on``: the tokens of the current version and of
    the ``window`` before it, or all response tokens (the reference is recomputed for them either way)
    [2501.12599 §2.6.2]. ``beta``: how rollouts with evidence were merged. ``label``: what tells which tokens are
    copied, where that is trained. Sequences without a loss token are dropped and counted. The batch may be empty.
    """
    kept: list[tuple[str, Rollout, float]] = []
    masked = stale = small = 0
    for group, values in zip(groups, advantages, strict=True):
        pairs = _responses(group, values)
        if not pairs:
            small += len(group.rollouts)
            continue
        masked += len(group.rollouts) - len(pairs)
        for rollout, value in pairs:
            if not len(rollout.prompt):
                raise ValueError(f"rollout {rollout.id} has no prompt: its first token cannot be trained")
            if has_loss(rollout, version, loss_on, window):
                kept.append((group.id, rollout, value))
            else:
                stale += 1
    parts = [part for _, rollout, _ in kept for part in (_prompt(rollout), *rollout.segments)]
    loss = [carries_loss(part, version, loss_on, window) for part in parts]
    ages = Ages.of((rollout for _, rollout, _ in kept), version, loss_on, window)
    copies = None if label is None else torch.from_numpy(of_rollouts([rollout for _, rollout, _ in kept], label))
    counts = PackCounts(len(kept), masked, stale, small)
    batch = _tensors(kept, parts, loss, version)
    rows = beside.beside_of([rollout for _, rollout, _ in kept], batch.loss_mask, beta)
    return replace(batch, counts=counts, ages=ages, beside=rows, copies=copies)


def _tensors(
    kept: Sequence[tuple[str, Rollout, float]],
    parts: Sequence[Segment],
    loss: Sequence[bool],
    version: WeightVersion,
) -> Batch:
    """``parts``: the pieces of all sequences, in order. ``loss``: whether the tokens of each of them carry loss."""
    lengths = np.array([len(part) for part in parts], np.int64)
    current = np.array([part.sampled and part.version == version for part in parts], np.bool_)
    logprobs = joined([p.logprobs if p.sampled else np.zeros(len(p), np.float32) for p in parts], np.float32)
    return Batch(
        tokens=torch.from_numpy(joined([part.token_ids for part in parts], np.int32)),
        cu_seqlens=cumulative([len(rollout.prompt) + rollout.size for _, rollout, _ in kept]),
        loss_mask=torch.from_numpy(np.repeat(np.array(loss, np.bool_), lengths)),
        current=torch.from_numpy(np.repeat(current, lengths)),
        sampler_logprobs=torch.from_numpy(logprobs),
        advantages=torch.tensor([value for _, _, value in kept], dtype=torch.float32),
        groups=tuple(group for group, _, _ in kept),
        total=len(kept),
    )


def _prompt(rollout: Rollout) -> Segment:
    """Return the prompt as a segment that the policy did not write."""
    return Segment(-1, rollout.prompt.token_ids, by=Author.ENVIRONMENT)


def pack_demonstrations(pairs: Sequence[tuple[Tokens, Tokens]], label: Labeller | None = None) -> Batch:
    """Pack (prompt ids, response ids) pairs for supervised training: loss on every response token, none on prompts.

    ``label``: what tells which tokens are copied, where that is trained.
    """
    for index, (prompt, response) in enumerate(pairs):
        if not len(prompt) or not len(response):
            raise ValueError(
                f"demonstration {index}: {len(prompt)} prompt and {len(response)} response tokens; both need some"
            )
    lengths = [len(prompt) + len(response) for prompt, response in pairs]
    sizes = [len(part) for pair in pairs for part in pair]
    mask = torch.from_numpy(np.repeat(np.tile(np.array([False, True]), len(pairs)), sizes))
    tokens = torch.from_numpy(joined([np.asarray(part, np.int32) for pair in pairs for part in pair], np.int32))
    return Batch(
        tokens=tokens,
        cu_seqlens=cumulative(lengths),
        loss_mask=mask,
        current=torch.zeros_like(mask),
        sampler_logprobs=torch.zeros(tokens.shape),
        advantages=torch.zeros(len(pairs)),
        groups=("",) * len(pairs),
        total=len(pairs),
        counts=PackCounts(sequences=len(pairs)),
        copies=None if label is None else torch.from_numpy(of_pairs(pairs, label)),
    )


def pack_labelled(sequences: Sequence[Tokens], labels: Sequence[Sequence[int]] | None = None) -> Batch:
    """Pack sequences that are judged as a whole: no token carries loss.

    ``labels`` [n][m], for the objective; ``None``: only outputs are wanted. Raises ``ValueError`` for an empty
    sequence.
    """
    if empty := [index for index, tokens in enumerate(sequences) if not len(tokens)]:
        raise ValueError(f"sequence {empty[0]} has no tokens: there is nothing to judge")
    tokens = torch.from_numpy(joined([np.asarray(part, np.int32) for part in sequences], np.int32))
    nowhere = torch.zeros(tokens.shape, dtype=torch.bool)
    return Batch(
        tokens=tokens,
        cu_seqlens=cumulative([len(part) for part in sequences]),
        loss_mask=nowhere,
        current=nowhere,
        sampler_logprobs=torch.zeros(tokens.shape),
        advantages=torch.zeros(len(sequences)),
        groups=("",) * len(sequences),
        total=len(sequences),
        counts=PackCounts(sequences=len(sequences)),
        labels=None if labels is None else torch.tensor([list(row) for row in labels], dtype=torch.int64),
    )
