"""What vLLM's core tells its front end, made light.

As it comes, every step sends an object for each request with three arrays in it, and the front end walks through each
token of each request: a third of the CPU time of a tiny model's rollout. Here a step's log-probs are one array, and
the front end hears of a request when it has ``GATHERED`` more tokens.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.outputs import LogprobsLists

from rollout.types import LogProbs

GATHERED = 64
"""Tokens of a request that are gathered before they are handed on (the first and the last come at once)."""
CHUNK = 128
"""Requests handed on at a time: vLLM's front end lets others run between chunks of this many."""
NOTHING = np.empty((0, 1), np.int32)


def attach(outputs: Sequence[EngineCoreOutput], logprobs: LogprobsLists, rows: Mapping[str, int]) -> None:
    """Give the first of a step's ``outputs`` the log-probs of all their tokens, in order; in the core.

    ``logprobs`` is the batch's, ``rows`` where in the batch each request is.
    """
    starts = logprobs.cu_num_generated_tokens
    index: list[int] = []
    for output in outputs:
        row = rows[output.request_id] if output.new_token_ids else 0
        start = row if starts is None else starts[row]
        index.extend(range(start, start + len(output.new_token_ids)))
    if index:
        values = logprobs.logprobs[np.array(index), :1]
        outputs[0].new_logprobs = LogprobsLists(NOTHING, values, NOTHING[:, 0])


class Wire:
    """In the front end, between the core's messages and vLLM's handling of them."""

    def __init__(self, llm: Any) -> None:
        """Of an ``AsyncLLM`` that has not read a message yet."""
        self._llm = llm
        self._source = llm.engine_core.get_output_async
        self._ready: deque[EngineCoreOutputs] = deque()
        self._held: dict[str, list[int]] = {}
        self._logprobs: defaultdict[str, list[float]] = defaultdict(list)
        self._version: str | None = None
        self.steps = 0
        """Steps of the core that drew tokens."""
        self.prompt_tokens = 0
        """Prompt tokens of the requests that have begun to draw."""
        self.cached_tokens = 0
        """How many of those had keys and values in vLLM's prefix cache."""
        llm.engine_core.get_output_async = self._message  # what vLLM's output handler calls

    def logprobs(self, request_id: str, count: int) -> LogProbs:
        """Take the log-probs of a request's next ``count`` tokens."""
        values = self._logprobs[request_id]
        taken, values[:count] = values[:count], []
        return np.array(taken, np.float32)

    def forget(self, request_id: str) -> None:
        """Drop what is kept of a request, which has ended."""
        self._logprobs.pop(request_id, None)
        self._held.pop(request_id, None)

    def flush(self) -> None:
        """Hand on what is gathered, before a request is stopped: vLLM's front end knows no tokens of it afterwards."""
        self._release()
        while self._ready:
            message = self._ready.popleft()
            self._llm.output_processor.process_outputs(message.outputs, weight_version=message.weight_version)

    async def _message(self) -> EngineCoreOutputs:
        while not self._ready:
            try:
                self._sort(await self._source())
            except EngineDeadError:
                self._hang_up()
                raise
        return self._ready.popleft()

    def _hang_up(self) -> None:
        """Tell the callers of a core that has died, whom vLLM lets wait for their answers."""
        for call in self._llm.engine_core.utility_results.values():
            if not call.done():
                call.set_exception(EngineDeadError())

    def _sort(self, message: EngineCoreOutputs) -> None:
        """Gather what is mere progress; the rest, and what has been gathered long enough, goes on."""
        if message.weight_version != self._version:
            self._release()  # as drawn by the version before
            self._version = message.weight_version
        self._keep_logprobs(message.outputs)
        self.steps += bool(message.outputs)
        urgent, known = [], self._llm.output_processor.request_states
        for output in message.outputs:
            if output.request_id not in known:  # stopped meanwhile
                continue
            if output.prefill_stats is not None:
                self.prompt_tokens += output.prefill_stats.num_prompt_tokens
                self.cached_tokens += output.prefill_stats.num_cached_tokens
            held = self._held.get(output.request_id)
            if output.finish_reason is None and output.prefill_stats is None:  # neither its end nor its first token
                if held is None:
                    self._held[output.request_id] = output.new_token_ids
                    continue
                held += output.new_token_ids
                if len(held) < GATHERED:
                    continue
                output.new_token_ids = []
            if held is not None:
                output.new_token_ids = self._held.pop(output.request_id) + output.new_token_ids
            urgent.append(output)
        self._pass_on(urgent)
        if message.scheduler_stats is not None:  # asked for by ``engine.extra``
            message.outputs = []
            self._ready.append(message)

    def _keep_logprobs(self, outputs: Sequence[EngineCoreOutput]) -> None:
        if not outputs or outputs[0].new_logprobs is None:
            return
        values, outputs[0].new_logprobs = outputs[0].new_logprobs.logprobs[:, 0].tolist(), None
        at, known = 0, self._llm.output_processor.request_states
        for output in outputs:
            end = at + len(output.new_token_ids)
            scores = output.new_prompt_logprobs_tensors is not None  # its token is thrown away
            if output.request_id in known and not scores:
                self._logprobs[output.request_id] += values[at:end]
            at = end

    def _release(self) -> None:
        """Put everything gathered on its way."""
        self._pass_on([EngineCoreOutput(key, tokens) for key, tokens in self._held.items()])
        self._held.clear()

    def _pass_on(self, outputs: list[EngineCoreOutput]) -> None:
        for start in range(0, len(outputs), CHUNK):
            part = outputs[start : start + CHUNK]
            self._ready.append(EngineCoreOutputs(outputs=part, weight_version=self._version))
