"""Batched sampling and scoring with a transformers model. Synchronous; ``rollout.engines.hf`` runs it on a thread."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rollout.engine import Delta, Request, Sampling
from rollout.engines.hf_windows import Windows, read
from rollout.evidence.config import MergingConfig
from rollout.evidence.merge import merge
from rollout.partial import repeats
from rollout.seeds import seed_of
from rollout.types import StopReason, TokenIds, Tokens, WeightVersion

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Deliver = Callable[[Sequence[Delta]], None]

SCORE_TOKENS = 8192
"""Padded tokens per forward pass when scoring."""


class Row:
    """One request of a batch, and what was drawn for it."""

    def __init__(self, request: Request, seed: int, version: WeightVersion) -> None:
        self.request = request
        self.seed = seed
        self.version = version
        self.drawn: list[int] = []
        self.logprobs: list[float] = []
        self.pointers: list[int] = []
        self.last = request.evidence.last if request.evidence else 0
        """The window that spoke for the last token."""
        self.sent = 0
        self.done = False
        self.stop: StopReason | None = None
        self.error = ""

    @property
    def merging(self) -> MergingConfig | None:
        """How its lines become one distribution; ``None``: it has one."""
        evidence = self.request.evidence
        return None if evidence is None or evidence.merging == "parallel" else evidence.merging

    def one(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits [V] that its next token is drawn from; ``logits`` [lines, V]."""
        constraint = self.request.constraint
        if self.done:  # it stays in the batch for a while, and nobody reads what it draws
            return logits[0]
        if constraint is not None:
            allowed = constraint.allowed([*self.request.response.tolist(), *self.drawn])
            logits = only(logits, allowed)
        if self.merging is None:
            return logits[0]
        found = merge(logits, self.merging, self.last)
        self.last = found.pointer
        return found.logits

    def add(self, token: int, logprob: float) -> None:
        """Add a token; decides whether it was the last, in vLLM's order: end token, budget, repetition."""
        self.drawn.append(token)
        self.logprobs.append(logprob)
        if self.merging is not None:
            self.pointers.append(self.last)
        s = self.request.sampling
        if token in s.stop_token_ids:
            self.done, self.stop = True, StopReason.EOS
        elif len(self.drawn) >= self.request.max_new_tokens:
            self.done = True
        elif repeats(self.drawn, s.repetition_min_pattern, s.repetition_max_pattern, s.repetition_count):
            self.done, self.stop = True, StopReason.REPETITION

    def piece(self) -> Delta:
        """Return the tokens drawn since the last call."""
        start, self.sent = self.sent, len(self.drawn)
        return Delta(
            self.request.key,
            np.array(self.drawn[start:], np.int32),
            np.array(self.logprobs[start:], np.float32),
            version=self.version,
            done=self.done,
            stop=self.stop,
            error=self.error,
            pointers=np.array(self.pointers[start:], np.int16),
        )


@torch.inference_mode()
def sample(
    model: PreTrainedModel,
    version: WeightVersion,
    requests: Sequence[Request],
    seeds: Sequence[int],
    deliver: Deliver,
    aborted: Collection[str],
    interval: int,
    *,
    windows: Windows,
) -> None:
    """Draw every request to its end by ``model``, which has weights ``version``; tokens are delivered every
    ``interval`` steps and when a request ends.

    A request with evidence has a line of the batch for each row, and its one token is the next of them all. Requests
    that appear in ``aborted`` meanwhile end with that error. Finished rows stay in the batch until they are half of it.
    """
    rows = [Row(request, seed, version) for request, seed in zip(requests, seeds, strict=True)]
    lines = windows.lines(requests)
    counts = [len(own) for own in lines]
    state = read(model, [line for own in lines for line in own])
    logits, cache, mask, positions = state.logits, state.cache, state.mask, state.positions
    step = 0
    while True:
        if plain := all(row.merging is None and row.request.constraint is None for row in rows):
            one = logits
        else:
            one = torch.stack([row.one(own) for row, own in zip(rows, logits.split(counts), strict=True)])
        tokens, logprobs = draw(one, [row.request.sampling for row in rows], [noise_of(row) for row in rows])
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
            if row.done:
                continue
            row.add(token, logprob)
            if not row.done and row.request.key in aborted:
                row.done, row.error = True, "aborted"
        step += 1
        fresh = [row for row in rows if row.sent < len(row.drawn) and (row.done or step % interval == 0)]
        if fresh:
            deliver([row.piece() for row in fresh])
        live = [index for index, row in enumerate(rows) if not row.done]
        if not live:
            return
        inputs = tokens if plain else tokens.repeat_interleave(torch.tensor(counts, device=model.device))
        if len(live) <= len(rows) // 2:
            index = _lines_of(live, counts).to(model.device)
            rows, counts = [rows[one] for one in live], [counts[one] for one in live]
            cache.batch_select_indices(index)
            inputs, mask, positions = inputs[index], mask[index], positions[index]
        inputs = inputs[:, None]
        mask = torch.cat([mask, mask.new_ones(len(inputs), 1)], 1)
        positions = positions[:, -1:] + 1
        logits = model(
            input_ids=inputs, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
        ).logits[:, -1]


def _lines_of(rows: Sequence[int], counts: Sequence[int]) -> torch.Tensor:
    """Return the indices of the lines of some rows, where row i has ``counts[i]`` of them."""
    starts = np.cumsum([0, *counts])
    return torch.tensor([line for row in rows for line in range(starts[row], starts[row + 1])], dtype=torch.long)


def only(logits: torch.Tensor, allowed: TokenIds | None) -> torch.Tensor:
    """Return the logits [n, V] with -inf for all tokens but those allowed; ``None``: all are."""
    if allowed is None:
        return logits
    index = torch.from_numpy(np.asarray(allowed, np.int64)).to(logits.device)
    return torch.full_like(logits, -torch.inf).index_copy(-1, index, logits.index_select(-1, index))


def noise_of(row: Row, ahead: int = 0) -> float:
    """Return the number of [0, 1) that draws the row's next token, or the one ``ahead`` further: a function of the
    request's seed and the token's position in the sequence.
    """
    return seed_of(row.seed, len(row.request.prompt) + len(row.drawn) + ahead) / 2**63


def left_padded(sequences: Sequence[Tokens], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sequences side by side [n, longest] and where they are: 1, and 0 before them."""
    width = max(len(sequence) for sequence in sequences)
    inputs = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros(len(sequences), width, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        inputs[row, width - len(sequence) :] = torch.from_numpy(np.asarray(sequence, np.int64))
        mask[row, width - len(sequence) :] = 1
    return inputs.to(device), mask.to(device)


def draw(
    logits: torch.Tensor, samplings: Sequence[Sampling], noise: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one token per row of ``logits`` [n, V] and its log-prob in nats under the row's ``Sampling``; both [n].

    By inversion of the cumulative distribution at ``noise``, in double precision; temperature 0 takes the best token.
    """
    device = logits.device
    temperature = torch.tensor([s.temperature or 1.0 for s in samplings], device=device, dtype=torch.float32)
    logprobs = (logits.float() / temperature[:, None]).log_softmax(-1)
    if any(s.top_p < 1 for s in samplings):
        logprobs = _nucleus(logprobs, torch.tensor([s.top_p for s in samplings], device=device))
    cumulative = logprobs.double().exp().cumsum(-1)
    point = torch.tensor(noise, device=device, dtype=torch.float64)[:, None] * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, point, right=True)[:, 0].clamp(max=logits.shape[1] - 1)
    greedy = torch.tensor([s.temperature == 0 for s in samplings], device=device)
    tokens = torch.where(greedy, logits.argmax(-1), tokens)
    return tokens, logprobs.gather(1, tokens[:, None])[:, 0]


def _nucleus(logprobs: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Keep the smallest set of best tokens whose mass reaches ``top_p`` [n], renormalised."""
    best, order = logprobs.sort(-1, descending=True)
    mass = best.exp()
    outside = mass.cumsum(-1) - mass >= top_p[:, None]
    outside[:, 0] = False
    kept = best.masked_fill(outside, -torch.inf).log_softmax(-1)
    return torch.empty_like(logprobs).scatter_(1, order, kept)


@torch.inference_mode()
def score(model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
    """Return the log-prob of each token but the first, at temperature 1, in nats; [n][len - 1]. Order is kept."""
    if not sequences:
        return []
    rows = max(1, SCORE_TOKENS // max(len(sequence) for sequence in sequences))
    return [row for i in range(0, len(sequences), rows) for row in _score_batch(model, sequences[i : i + rows])]


def _score_batch(model: PreTrainedModel, batch: Sequence[Sequence[int]]) -> list[list[float]]:
    inputs, mask = left_padded(batch, model.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=inputs, attention_mask=mask, position_ids=positions, use_cache=False).logits
    logprobs = logits[:, :-1].float().log_softmax(-1).gather(2, inputs[:, 1:, None])[..., 0]
    return [row[len(row) - (len(sequence) - 1) :].tolist() for row, sequence in zip(logprobs, batch, strict=True)]
