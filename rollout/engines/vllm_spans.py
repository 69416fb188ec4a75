"""Drafts of spans (``rollout.copying.drafts``) in the place of vLLM's n-grams, a drafter for each request."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from vllm.v1.spec_decode.ngram_proposer import NgramProposer

from rollout.copying.drafts import SpanDrafter


class SpanProposer(NgramProposer):
    """vLLM's proposer sees rows of a batch, which requests leave and enter; this one knows whose they are."""

    def __init__(self, runner: Any, longest: int, least: int) -> None:
        """``runner``: vLLM's model runner. The other two are ``SpanDrafter``'s. vLLM's own start is left out: it
        compiles a search.
        """
        self._runner = runner
        self._longest = longest
        self._least = least
        self._drafters: dict[str, SpanDrafter] = {}

    def propose(
        self,
        num_speculative_tokens: int,
        sampled_token_ids: list[list[int]],
        num_tokens_no_spec: npt.NDArray[np.int32],
        token_ids_cpu: npt.NDArray[np.int32],
        slot_mappings: Any = None,  # noqa: ARG002 - vLLM's signature
    ) -> list[list[int]]:
        """See vLLM: a draft for each row of the batch, empty where no token was drawn."""
        batch = self._runner.input_batch
        present: dict[str, SpanDrafter] = {}
        drafts: list[list[int]] = []
        for row, drawn in enumerate(sampled_token_ids):
            key, known = batch.req_ids[row], int(num_tokens_no_spec[row])
            drafter = self._drafters.get(key)
            if not drawn:
                drafts.append([])
                if drafter is not None:
                    present[key] = drafter
                continue
            prompt = int(batch.num_prompt_tokens[row])
            if drafter is None or not prompt <= len(drafter) <= known:
                drafter = SpanDrafter(token_ids_cpu[row, :prompt].tolist(), self._longest, self._least)
            drafter.extend(token_ids_cpu[row, len(drafter) : known].tolist())
            present[key] = drafter
            drafts.append(drafter.draft(min(num_speculative_tokens, self._room(key, known - prompt, known))))
        self._drafters = present
        return drafts

    def _room(self, key: str, drawn: int, known: int) -> int:
        """Return how many tokens can be drawn before the one that ends the budget or the context."""
        budget = self._runner.requests[key].sampling_params.max_tokens
        return max(0, min(budget - drawn, self._runner.max_model_len - known) - 1)
