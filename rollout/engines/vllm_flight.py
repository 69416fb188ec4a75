"""A request on its way through vLLM, and which weights drew each of its tokens.

vLLM's core says with every step which weights it has, and these change only between two steps. Its front end notes for
each request from which token on they were others, but tells so only at the request's end; here its notes are read as
tokens arrive, however many of them it had kept back or joined when the weights changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rollout.engine import Request
from rollout.engines.vllm_arguments import sampling_params
from rollout.engines.vllm_groups import arguments_of
from rollout.types import NO_POINTERS, LogProbs, Pointers, StopReason, TokenIds, WeightVersion

if TYPE_CHECKING:
    from vllm.outputs import CompletionOutput

    from rollout.engines.vllm_wire import Wire

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
        self._rows: list[_Row] = []

    async def begin(self, llm: Any, seed: int, by_position: bool, salt: str | None) -> None:
        """Hand the request to vLLM, of one with evidence all rows. It shares keys and values with requests of the same
        ``salt`` alone.
        """
        from vllm.inputs.engine import tokens_input

        self.salt = salt
        self._rows = []
        grouped = self.request.evidence is not None
        for number, (tokens, arguments) in enumerate(arguments_of(self.request)):
            sampling = self.request.sampling if not number else replace(self.request.sampling, repetition_max_pattern=0)
            most = self.request.max_new_tokens + grouped  # and the end of its prompt
            params = sampling_params(sampling, most, seed, by_position, arguments)
            name = f"{self.request.key} row {number}" if number else self.request.key
            queue = await llm.add_request(name, tokens_input(tokens.tolist(), cache_salt=salt), params)
            state = llm.output_processor.request_states.get(queue.request_id)  # not there: it has ended
            self._rows.append(_Row(queue, state, int(grouped)))

    @property
    def ids(self) -> list[str]:
        """vLLM's names of it; none before it has them."""
        return [row.id for row in self._rows]

    @property
    def drawn(self) -> bool:
        """Whether a token of it has been drawn."""
        return not self._rows or self._rows[0].drawn

    async def output(self, wire: Wire) -> Output:
        """Wait for more."""
        first, *others = self._rows
        text, pieces, finished = await first.output(wire)
        if not others:
            return Output(text, pieces, finished)
        told = [await row.told(wire, first.handed) for row in others]
        at = 0
        for piece in pieces:
            said = np.stack([row[at : at + len(piece.token_ids)] for row in told])
            piece.pointers = (said.argmax(0) + 1).astype(np.int16)
            at += len(piece.token_ids)
        return Output(text, pieces, finished)

    def forget(self, wire: Wire) -> None:
        """Drop what is kept of it: it has ended."""
        for row in self._rows:
            wire.forget(row.id)


@dataclass
class Piece:
    """Tokens drawn by one version."""

    version: WeightVersion
    token_ids: TokenIds
    logprobs: LogProbs
    pointers: Pointers = field(default_factory=lambda: NO_POINTERS)


@dataclass(frozen=True)
class Output:
    """More of a request."""

    last: CompletionOutput
    """As vLLM tells it; of a request that has ended, how."""
    pieces: list[Piece]
    finished: bool


class _Row:
    """One of vLLM's requests."""

    def __init__(self, queue: Any, state: Any, forced: int) -> None:
        self._queue = queue
        self._state = state
        self._forced = forced
        """Of its first tokens those that are not handed on."""
        self._seen = 0
        self.handed = 0
        """Tokens handed on."""
        self._said: list[LogProbs] = []
        self._waiting = 0
        self._ended = False

    @property
    def id(self) -> str:
        """vLLM's name of it."""
        return str(self._queue.request_id)

    @property
    def drawn(self) -> bool:
        """Whether a token of it has been drawn."""
        return self._state is None or self._state.detokenizer.num_output_tokens() > self._forced

    async def output(self, wire: Wire) -> tuple[CompletionOutput, list[Piece], bool]:
        """Wait for more; return how vLLM tells it, its tokens by version, and whether they are the last."""
        output = self._queue.get_nowait() or await self._queue.get()
        more, tokens = output.outputs[0], output.outputs[0].token_ids
        first, self._seen = self._seen, self._seen + len(tokens)
        logprobs = wire.logprobs(self.id, len(tokens))
        spans = more.weight_versions
        named = self._state.weight_version_starts if spans is None else [(span.version, span.start) for span in spans]
        pieces = []
        for version, part in cut(first, self._seen, [(int(version), start) for version, start in named]):
            own = slice(max(part.start, self._forced - first), part.stop)
            if own.start < own.stop:
                pieces.append(Piece(version, np.array(tokens[own], np.int32), logprobs[own]))
        self.handed = max(0, self._seen - self._forced)
        return more, pieces, bool(output.finished)

    async def told(self, wire: Wire, end: int) -> LogProbs:
        """Return what a row with evidence said of the group's tokens since the last call, up to token ``end``.

        Raises ``RuntimeError`` where it ended before.
        """
        while self.handed < end and not self._ended:
            _, pieces, self._ended = await self.output(wire)
            self._said += [piece.logprobs for piece in pieces]
        said = np.concatenate([*self._said, np.empty(0, np.float32)])
        count = end - self._waiting
        if len(said) < count:
            raise RuntimeError("a row of the group ended before the others")
        self._said, self._waiting = [said[count:]], end
        return said[:count]


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


def ending(output: CompletionOutput) -> tuple[StopReason | None, str]:
    """Return how vLLM says that a request ended, as (stop reason, error)."""
    match output.finish_reason:
        case "stop":
            return StopReason.EOS, ""
        case "repetition":
            return StopReason.REPETITION, ""
        case "length":
            return None, ""
        case "abort":
            return None, "aborted"
        case "error" if output.stop_reason:
            return None, str(output.stop_reason)
        case _:
            return None, f"vLLM finished the request with {output.finish_reason!r}"
