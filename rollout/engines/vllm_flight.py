"""A request on its way through vLLM, and which weights drew each of its tokens.

vLLM's core says with every step which weights it has, and these change only between two steps. Its front end notes for
each request from which token on they were others, but tells so only at the request's end; here its notes are read as
tokens arrive, however many of them it had kept back or joined when the weights changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rollout.engine import Request
from rollout.types import StopReason, WeightVersion

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.outputs import CompletionOutput

FIRST = -(2**31)
"""Priority of scoring, where vLLM heeds priorities: the lowest number is served first, and responses have more."""
Starts = Sequence[tuple[WeightVersion, int]]
"""For each version in turn the first token of the request that it drew, counted from 0."""


class Flight:
    """A request from the moment it is submitted until it has ended."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.recalled = False
        """The caller wants it back."""
        self.salt: str | None = None
        """What its keys and values are shared under."""
        self._queue: Any = None
        self._state: Any = None
        self._handed = 0

    async def begin(self, llm: Any, params: SamplingParams, salt: str | None) -> None:
        """Hand the request to vLLM. It shares keys and values with requests of the same ``salt`` alone."""
        from vllm.inputs.engine import tokens_input

        prompt = tokens_input(self.request.prompt.token_ids.tolist(), cache_salt=salt)
        self.salt = salt
        self._queue = await llm.add_request(self.request.key, prompt, params)
        self._state = llm.output_processor.request_states.get(self._queue.request_id)  # not there: it has ended

    @property
    def id(self) -> str:
        """vLLM's name of it; empty before it has one."""
        return "" if self._queue is None else self._queue.request_id

    @property
    def drawn(self) -> bool:
        """Whether a token of it has been drawn."""
        return self._state is None or self._state.detokenizer.num_output_tokens() > 0

    async def output(self) -> tuple[CompletionOutput, bool]:
        """Wait for more; return it, and whether it is the last."""
        output = self._queue.get_nowait() or await self._queue.get()
        return output.outputs[0], output.finished

    def pieces(self, output: CompletionOutput) -> Iterator[tuple[WeightVersion, slice]]:
        """Return the parts of the newest output, each drawn by one version."""
        spans = output.weight_versions
        named = self._state.weight_version_starts if spans is None else [(span.version, span.start) for span in spans]
        first, self._handed = self._handed, self._handed + len(output.token_ids)
        return cut(first, self._handed, [(int(version), start) for version, start in named])


def cut(first: int, end: int, starts: Starts) -> Iterator[tuple[WeightVersion, slice]]:
    """Return tokens ``first`` to ``end`` of a request as parts, each drawn by one version; slices count from
    ``first``.
    """
    ends = [start for _, start in starts[1:]] + [end]
    for (version, start), stop in zip(starts, ends, strict=False):  # an empty output has neither
        low, high = max(start, first), min(stop, end)
        if low < high:
            yield version, slice(low - first, high - first)


async def scored(
    llm: Any, number: int, sequence: Sequence[int], salt: str | None, seats: asyncio.Semaphore
) -> list[float]:
    """Return the log-prob of each token of ``sequence`` but the first, at temperature 1, in nats."""
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input
    from vllm.sampling_params import RequestOutputKind

    params = SamplingParams(  # asked for log-probs of the prompt, vLLM computes all of it and reads no cache
        max_tokens=1, prompt_logprobs=0, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
    )
    async with seats:
        prompt = tokens_input(list(sequence), cache_salt=salt)
        async for output in llm.generate(prompt, params, f"score-{number}", priority=FIRST):
            values = output.prompt_logprobs
    return [values[t][token].logprob for t, token in enumerate(sequence) if t]


def ending(finish_reason: str | None) -> tuple[StopReason | None, str]:
    """Return vLLM's finish reason as (stop reason, error)."""
    match finish_reason:
        case "stop":
            return StopReason.EOS, ""
        case "repetition":
            return StopReason.REPETITION, ""
        case "length":
            return None, ""
        case "abort":
            return None, "aborted"
        case _:
            return None, f"vLLM finished the request with {finish_reason!r}"
