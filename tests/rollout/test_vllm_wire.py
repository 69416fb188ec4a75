"""What lies between vLLM's core and its front end: log-probs find their tokens, tokens of a version stay together."""

from __future__ import annotations

import asyncio
from collections import deque
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.needs import needs_vllm

pytestmark = needs_vllm


class FrontEnd:
    """The parts of vLLM's front end that the wire touches, with the core's messages at hand."""

    def __init__(self, *known: str) -> None:
        self.messages: deque[Any] = deque()
        self.heard: list[tuple[str | None, str, tuple[int, ...]]] = []
        self.engine_core = SimpleNamespace(get_output_async=self._next)
        self.output_processor = SimpleNamespace(request_states=dict.fromkeys(known), process_outputs=self._hear)

    async def _next(self) -> Any:
        return self.messages.popleft()

    def _hear(self, outputs: list[Any], weight_version: str | None) -> None:
        assert all(output.new_logprobs is None for output in outputs)
        self.heard += [(weight_version, output.request_id, tuple(output.new_token_ids)) for output in outputs]

    def read(self) -> None:
        """Handle messages as vLLM's output handler does, until the core has no more."""

        async def work() -> None:
            while True:
                message = await self.engine_core.get_output_async()
                self._hear(message.outputs, message.weight_version)

        with pytest.raises(IndexError):
            asyncio.run(work())


def step(version: str, tokens: dict[str, list[int]], first: bool = False, last: str = "") -> Any:
    """A step's message, log-probs attached as in the core: -token / 100, rows of the batch in another order."""
    from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason
    from vllm.v1.metrics.stats import PrefillStats
    from vllm.v1.outputs import LogprobsLists

    from rollout.engines.vllm_wire import attach

    stats = PrefillStats(num_prompt_tokens=10, num_cached_tokens=4) if first else None
    outputs = [EngineCoreOutput(key, list(drawn), prefill_stats=stats) for key, drawn in tokens.items()]
    for output in outputs:
        output.finish_reason = FinishReason.STOP if output.request_id == last else None
    batch = list(reversed(tokens))
    flat = [token for key in batch for token in tokens[key]]
    starts = np.cumsum([0] + [len(tokens[key]) for key in batch]).tolist()
    values = np.array(flat, np.float32)[:, None] / -100
    logprobs = LogprobsLists(np.array(flat)[:, None], values, np.zeros(len(flat)), starts)
    attach(outputs, logprobs, {key: row for row, key in enumerate(batch)})
    return EngineCoreOutputs(outputs=outputs, weight_version=version)


def test_the_first_and_the_last_come_at_once_and_the_rest_is_gathered() -> None:
    from rollout.engines.vllm_wire import GATHERED, Wire

    front = FrontEnd("a", "b")
    wire = Wire(front)
    drawn = {"a": [n % 50 for n in range(GATHERED + 5)], "b": [7, 8, 9]}
    for n in range(GATHERED + 5):
        now = {key: tokens[n : n + 1] for key, tokens in drawn.items() if n < len(tokens)}
        front.messages.append(step("1", now, first=n == 0, last="b" if n == 2 else ""))
    front.read()
    assert front.heard[:3] == [("1", "a", (0,)), ("1", "b", (7,)), ("1", "b", (8, 9))]
    assert [len(tokens) for _, key, tokens in front.heard if key == "a"] == [1, GATHERED]
    wire.flush()
    assert [token for _, key, tokens in front.heard if key == "a" for token in tokens] == drawn["a"]
    for key, tokens in drawn.items():
        assert wire.logprobs(key, 1) == pytest.approx(np.array(tokens[:1]) / -100)
        assert wire.logprobs(key, len(tokens) - 1) == pytest.approx(np.array(tokens[1:]) / -100)
    assert (wire.steps, wire.prompt_tokens, wire.cached_tokens) == (GATHERED + 5, 20, 8)


def test_tokens_gathered_before_new_weights_go_on_as_drawn_by_the_old() -> None:
    from rollout.engines.vllm_wire import Wire

    front = FrontEnd("a")
    wire = Wire(front)
    front.messages.extend([step("1", {"a": [1]}, first=True), step("1", {"a": [2]}), step("1", {"a": [3]})])
    front.messages.extend([step("2", {"a": [4, 5]}), step("2", {"a": [6]}, last="a")])
    front.read()
    assert front.heard == [("1", "a", (1,)), ("1", "a", (2, 3)), ("2", "a", (4, 5, 6))]
    assert wire.logprobs("a", 6) == pytest.approx([-0.01, -0.02, -0.03, -0.04, -0.05, -0.06])


def test_what_comes_of_a_stopped_request_is_dropped() -> None:
    from rollout.engines.vllm_wire import Wire

    front = FrontEnd("a", "b")
    wire = Wire(front)
    front.messages.append(step("1", {"a": [1], "b": [2]}))
    front.read()
    wire.flush()
    del front.output_processor.request_states["b"]
    wire.forget("b")
    front.messages.append(step("1", {"b": [4], "a": [3]}))
    front.read()
    wire.flush()
    assert front.heard == [("1", "a", (1,)), ("1", "b", (2,)), ("1", "a", (3,))]
    assert wire.logprobs("a", 2) == pytest.approx([-0.01, -0.03])
    assert not wire._logprobs.keys() & {"b"}


def test_who_waits_for_a_dead_core_is_told() -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    from rollout.engines.vllm_wire import Wire

    front = FrontEnd()

    async def dead() -> Any:
        raise EngineDeadError

    async def work() -> None:
        waiting, answered, given_up = (asyncio.get_running_loop().create_future() for _ in range(3))
        answered.set_result(None)
        given_up.cancel()
        front.engine_core = SimpleNamespace(get_output_async=dead, utility_results=dict(enumerate([waiting, answered])))
        front.engine_core.utility_results[2] = given_up
        Wire(front)
        with pytest.raises(EngineDeadError):
            await front.engine_core.get_output_async()
        assert isinstance(waiting.exception(), EngineDeadError)
        assert answered.result() is None

    asyncio.run(work())
