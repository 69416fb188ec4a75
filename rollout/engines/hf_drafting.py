"""Sampling with drafts by a transformers model: several tokens of a row in a step, the same ones as one by one.

A step has one width: of each row its newest token, what was drafted behind it, then padding. Where a row draws another
token than was drafted, what follows is a hole in its key-value cache: the mask hides it, and holes are squeezed out
when they have become many.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch

from rollout.config import SpeculativeConfig
from rollout.copying.drafts import SpanDrafter
from rollout.engine import Request
from rollout.engines.hf_sampling import Deliver, Row, draw, left_padded, noise_of
from rollout.models.attention import AttentionConfig
from rollout.types import WeightVersion

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STEP_TOKENS = 16
"""What a step costs beside its tokens, in tokens: all weights are read once, whatever its width."""


def check(model: PreTrainedModel, attention: AttentionConfig) -> None:
    """Raises ``ValueError`` when tokens cannot be taken out of the model's cache again."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers} - {DynamicLayer}
    found = ", ".join(sorted(kind.__name__ for kind in kinds)) if attention.moba is None else "block attention"
    if found:
        raise ValueError(
            f"engine.speculative: wrong guesses cannot be taken out of the key-value cache of {type(model).__name__} "
            f"({found}); leave engine.speculative out, or use engine.kind vllm"
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
    guesses: SpeculativeConfig,
) -> None:
    """Draw every request to its end: as ``hf_sampling.sample``, in fewer steps."""
    batch = _Batch(model, [Row(request, seed, version) for request, seed in zip(requests, seeds, strict=True)], guesses)
    step = 0
    while batch.rows:
        batch.step()
        for row in batch.rows:
            if not row.done and row.request.key in aborted:
                row.done, row.error = True, "aborted"
        step += 1
        fresh = [row for row in batch.rows if row.sent < len(row.drawn) and (row.done or step % interval == 0)]
        if fresh:
            deliver([row.piece() for row in fresh])
        batch.leave()


class _Batch:
    """Rows, what drafts for them, and their cache."""

    def __init__(self, model: PreTrainedModel, rows: list[Row], guesses: SpeculativeConfig) -> None:
        from transformers import DynamicCache

        self.rows = rows
        self._model = model
        self._drafters = [
            SpanDrafter(map(int, row.request.prompt.token_ids), guesses.longest, guesses.min_ngram) for row in rows
        ]
        self._cache: Any = DynamicCache(config=model.config)
        self._mask = torch.zeros(len(rows), 0, dtype=torch.long, device=model.device)
        """Which columns of the cache are tokens of a row; [rows, columns]."""

    def step(self) -> None:
        """Draw one token for each row, and as many more as were drafted right."""
        first = not self._mask.shape[1]
        if not first:
            self._squeeze()
        drafts = [[] for _ in self.rows] if first else self._drafts()
        if first:
            inputs, real = left_padded([row.request.prompt.token_ids for row in self.rows], self._model.device)
        else:
            newest = [[row.drawn[-1], *draft] for row, draft in zip(self.rows, drafts, strict=True)]
            inputs, real = _right_padded(newest, self._model.device)
        width = inputs.shape[1]
        mask = torch.cat([self._mask, real], 1)
        logits = self._model(
            input_ids=inputs,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, -width:],
            past_key_values=self._cache,
            logits_to_keep=1 if first else width,
        ).logits
        right = self._verify(logits, drafts)
        if not first:
            kept = torch.tensor(right, device=mask.device)[:, None]
            mask[:, -width:] = torch.arange(width, device=mask.device) <= kept
            surplus = width - 1 - max(right)
            if surplus:
                self._cache.crop(-surplus)
                mask = mask[:, :-surplus]
        self._mask = mask

    def leave(self) -> None:
        """Let finished rows go once they are half of all."""
        live = [index for index, row in enumerate(self.rows) if not row.done]
        if len(live) > len(self.rows) // 2:
            return
        self.rows = [self.rows[index] for index in live]
        self._drafters = [self._drafters[index] for index in live]
        if live:
            index = torch.tensor(live, device=self._mask.device)
            self._cache.batch_select_indices(index)
            self._mask = self._mask[index]

    def _drafts(self) -> list[list[int]]:
        drafts = [
            [] if row.done else drafter.draft(row.request.max_new_tokens - len(row.drawn) - 1)
            for row, drafter in zip(self.rows, self._drafters, strict=True)
        ]
        longest = worthwhile([len(draft) for draft in drafts])
        return [draft[:longest] for draft in drafts]

    def _verify(self, logits: torch.Tensor, drafts: Sequence[Sequence[int]]) -> list[int]:
        """Add to each row what it draws, up to and with the first token that was not drafted; returns how many were.

        Logits [rows, longest draft + 1, V].
        """
        places = [(row, ahead) for row, draft in enumerate(drafts) for ahead in range(len(draft) + 1)]
        at, ahead = (torch.tensor(index, device=logits.device) for index in zip(*places, strict=True))
        samplings = [self.rows[row].request.sampling for row, _ in places]
        tokens, logprobs = draw(logits[at, ahead], samplings, [noise_of(self.rows[row], n) for row, n in places])
        right = [0] * len(drafts)
        drawn = iter(zip(tokens.tolist(), logprobs.tolist(), strict=True))
        for index, (row, drafter, draft) in enumerate(zip(self.rows, self._drafters, drafts, strict=True)):
            mine = [next(drawn) for _ in range(len(draft) + 1)]
            for guess, (token, logprob) in zip([*draft, None], mine, strict=True):
                if row.done:
                    break
                row.add(token, logprob)
                drafter.extend([token])
                if token != guess:
                    break
                right[index] += 1
        return right

    def _squeeze(self) -> None:
        """Take the holes out of the cache once they are a fifth of the widest row."""
        longest = int(self._mask.sum(1).max())
        if self._mask.shape[1] <= longest + longest // 4:
            return
        order = self._mask.argsort(dim=1, stable=True)[:, -longest:]  # a row's holes first, then its tokens in order
        for layer in self._cache.layers:
            layer.keys = _columns(layer.keys, order)
            layer.values = _columns(layer.values, order)
        self._mask = self._mask.gather(1, order)


def _columns(states: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Return the columns ``order`` [rows, kept] of keys or values [rows, heads, columns, size]."""
    _, heads, _, size = states.shape
    return states.gather(2, order[:, None, :, None].expand(-1, heads, -1, size))


def worthwhile(lengths: Sequence[int]) -> int:
    """Return the longest draft of a step: rows without one are padded to it, so it is the one with most tokens,
    those drafted included, for a step's cost.
    """

    def tokens_per_cost(longest: int) -> float:
        tokens = len(lengths) + sum(min(length, longest) for length in lengths)
        return tokens / (STEP_TOKENS + len(lengths) * (1 + longest))

    return max(range(max(lengths, default=0) + 1), key=tokens_per_cost)


def _right_padded(sequences: Sequence[Sequence[int]], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, sequences))
    inputs = [[*sequence, *[0] * (width - len(sequence))] for sequence in sequences]
    mask = [[1] * len(sequence) + [0] * (width - len(sequence)) for sequence in sequences]
    return torch.tensor(inputs, device=device), torch.tensor(mask, device=device)
