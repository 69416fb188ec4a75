"""The sampler in vLLM's worker: one draw for the whole batch, its noise made from seeds and positions.

vLLM's own keeps a generator for each seeded request and asks every one of them at every step. This one also leaves out
what k15 never asks for: penalties, biases, log-probs of tokens that were not drawn, ranks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from vllm.v1.outputs import LogprobsTensors, SamplerOutput
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p
from vllm.v1.sample.sampler import Sampler
from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

from rollout.engines.noise import choose, uniforms
from rollout.engines.vllm_groups import Groups

SEED = "k15_seed"
"""The entry of ``SamplingParams.extra_args`` that holds a request's seed."""
GREEDY = 1e-5
"""Temperatures below it take the likeliest token, as in vLLM."""


class PositionSampler(Sampler):
    """Takes the place of ``model_runner.sampler``; see ``rollout.engines.noise`` for what a token depends on."""

    def __init__(self, runner: Any) -> None:
        super().__init__(logprobs_mode="processed_logprobs")
        self._runner = runner
        self._seen: SamplingMetadata | None = None
        self._groups = Groups([], {})
        self._pointers: dict[str, int] = {}
        self._seeds: npt.NDArray[np.uint64] = np.empty(0, np.uint64)

    def forward(
        self,
        logits: torch.Tensor,
        sampling_metadata: SamplingMetadata,
        predict_bonus_token: bool = False,  # noqa: ARG002 - vLLM's signature
        logprobs_mode_override: str | None = None,  # noqa: ARG002
    ) -> SamplerOutput:
        """See vLLM; logits [n, V], a row for each request of the batch."""
        rows = np.arange(len(logits))
        tokens, logprobs = self.draw(logits, sampling_metadata, rows, 0)
        return SamplerOutput(tokens[:, None].int(), _only_drawn(tokens, logprobs))

    def draw(
        self,
        logits: torch.Tensor,
        metadata: SamplingMetadata,
        rows: npt.NDArray[np.int64],
        ahead: npt.NDArray[np.int64] | int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the token that each row of logits draws and its log-prob, under temperature and nucleus of its
        request.

        [m, V] logits; ``rows`` [m]: the request of the batch; ``ahead``: how many guessed tokens precede. -> [m], [m].
        """
        batch = self._runner.input_batch
        if metadata is not self._seen:
            arguments = [self._runner.requests[key].sampling_params.extra_args for key in batch.req_ids]
            # Scoring has no seed, and throws its one token away.
            self._seeds = np.array([int((each or {}).get(SEED, 0)) for each in arguments], np.uint64)
            self._groups = Groups(arguments, self._pointers)
            self._seen = metadata
        noise = torch.from_numpy(uniforms(self._seeds[rows], batch.num_tokens_no_spec[rows] + ahead))
        of = torch.from_numpy(rows).to(logits.device, non_blocking=True)
        logits = logits.float()
        if self._groups:
            return self._together(logits, metadata, noise)
        return self._drawn(logits, metadata, noise, of)

    def _together(
        self, logits: torch.Tensor, metadata: SamplingMetadata, noise: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw for a batch with groups of rows or constraints in it: a row for each request, nothing guessed."""
        batch = self._runner.input_batch
        ends = zip(batch.num_prompt_tokens.tolist(), batch.num_tokens_no_spec.tolist(), strict=True)
        drawn = [
            batch.token_ids_cpu[at, slice(*end)].tolist() for at, end in zip(range(len(logits)), ends, strict=False)
        ]
        logits, spoke = self._groups.merge(self._groups.restrict(logits, drawn), drawn)
        noise = noise[self._groups.firsts]
        tokens, logprobs = self._drawn(logits, metadata, noise, torch.arange(len(logits), device=logits.device))
        return self._groups.settle(tokens, logprobs, spoke, drawn)

    def _drawn(
        self, logits: torch.Tensor, metadata: SamplingMetadata, noise: torch.Tensor, of: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens and log-probs; ``of`` [m]: the request of the batch that each row of logits belongs to."""
        likeliest = None if metadata.all_random else logits.argmax(-1)
        cool = None
        if metadata.temperature is not None:
            temperature = metadata.temperature[of]
            cool = temperature < GREEDY
            logits = logits / torch.where(cool, 1.0, temperature)[:, None]
            top_k = None if metadata.top_k is None else metadata.top_k[of]
            top_p = None if metadata.top_p is None else metadata.top_p[of]
            logits = apply_top_k_top_p(logits, top_k, top_p)
        elif likeliest is not None:
            cool = torch.ones_like(likeliest, dtype=torch.bool)
        fixed = None if likeliest is None or cool is None else torch.where(cool, likeliest, -1)
        return choose(logits, noise.to(logits.device, non_blocking=True), fixed)


class Verifier(nn.Module):
    """Takes the place of ``model_runner.rejection_sampler``: draws the token at each guessed position, and keeps those
    drawn up to and with the first that was guessed otherwise.

    A guess made without chance is right with exactly the probability that rejection sampling would accept it with, so
    this is speculative sampling; and since noise belongs to positions, the tokens are those that would have been drawn
    one by one.
    """

    def __init__(self, sampler: PositionSampler) -> None:
        super().__init__()
        self._sampler = sampler

    def forward(
        self,
        metadata: SpecDecodeMetadata,
        draft_probs: torch.Tensor | None,
        logits: torch.Tensor,
        sampling_metadata: SamplingMetadata,
    ) -> SamplerOutput:
        """See vLLM; logits [m, V], for each request of the batch a row for every guess and one for the token behind
        them. Tokens come as [n, longest guess + 1], -1 behind those drawn.
        """
        if draft_probs is not None:
            raise ValueError("guesses drawn at random would need rejection sampling; engine.speculative makes none")
        guesses = np.array(metadata.num_draft_tokens)
        rows, ahead = places(guesses + 1)
        guessed_rows, guessed_ahead = places(guesses)
        tokens, logprobs = self._sampler.draw(logits, sampling_metadata, rows, ahead)
        drawn = tokens.new_full((len(guesses), metadata.max_spec_len + 1), -1)
        guessed = torch.full_like(drawn, -2)
        values = logprobs.new_zeros(drawn.shape)
        drawn[rows, ahead], values[rows, ahead] = tokens, logprobs
        guessed[guessed_rows, guessed_ahead] = metadata.draft_token_ids.to(drawn.dtype)
        right = (drawn == guessed)[:, :-1].cumprod(1)
        drawn[:, 1:].masked_fill_(right == 0, -1)
        return SamplerOutput(drawn.int(), _only_drawn(drawn.flatten(), values.flatten()))


def places(counts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return row and column of each item, where row i has ``counts[i]`` of them and rows follow each other."""
    rows = np.repeat(np.arange(len(counts)), counts)
    return rows, np.arange(len(rows)) - np.repeat(counts.cumsum() - counts, counts)


def _only_drawn(tokens: torch.Tensor, logprobs: torch.Tensor) -> LogprobsTensors:
    """Return the log-probs [m] of the tokens drawn as vLLM passes them on; ranks are not computed, and 0."""
    return LogprobsTensors(tokens[:, None].int(), logprobs[:, None], torch.zeros_like(tokens))
