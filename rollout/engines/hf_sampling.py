"""Batched sampling and scoring with a transformers model. Synchronous; ``rollout.engines.hf`` runs it on a thread."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rollout.engine import Delta, Request, Sampling
from rollout.partial import repeats
from rollout.seeds import seed_of
from rollout.types import StopReason, Tokens, WeightVersion

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Deliver = Callable[[Sequence[Delta]], None]

SCORE_TOKENS = 8192
"""Padded tokens per forward pass when scoring."""


class _Row:
    """One request of a batch."""

    def __init__(self, request: Request, seed: int, version: WeightVersion) -> None:
        self.request = request
        self.seed = seed
        self.version = version
        self.drawn: list[int] = []
        self.logprobs: list[float] = []
        self.sent = 0
        self.done = False
        self.stop: StopReason | None = None
        self.error = ""

    def add(self, token: int, logprob: float) -> None:
        """Add a token; decides whether it was the last, in vLLM's order: end token, budget, repetition."""
        self.drawn.append(token)
        self.logprobs.append(logprob)
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
) -> None:
    """Draw every request to its end by ``model``, which has weights ``version``; tokens are delivered every
    ``interval`` steps and when a request ends.

    Requests that appear in ``aborted`` meanwhile end with that error. Finished rows stay in the batch until they are
    half of it.
    """
    from transformers import DynamicCache

    rows = [_Row(request, seed, version) for request, seed in zip(requests, seeds, strict=True)]
    inputs, mask = left_padded([row.request.prompt.token_ids for row in rows], model.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    step = 0
    while rows:
        logits = model(
            input_ids=inputs, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
        ).logits[:, -1]
        tokens, logprobs = draw(logits, [row.request.sampling for row in rows], [_noise(row) for row in rows])
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
        if len(live) <= len(rows) // 2:
            rows = [rows[index] for index in live]
            index = torch.tensor(live, device=model.device, dtype=torch.long)
            if rows:
                cache.batch_select_indices(index)
            tokens, mask, positions = tokens[index], mask[index], positions[index]
        inputs = tokens[:, None]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
        positions = positions[:, -1:] + 1


def _noise(row: _Row) -> float:
    """Return a number uniform in [0, 1), a function of the request's seed and the token's position in the sequence."""
    return seed_of(row.seed, len(row.request.prompt) + len(row.drawn)) / 2**63


def left_padded(sequences: Sequence[Tokens], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask [n, longest] of ``sequences``, zeros before the shorter ones."""
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
